"""A caption table of any size as a page that a local server fills: searched, filtered, compared and reviewed."""

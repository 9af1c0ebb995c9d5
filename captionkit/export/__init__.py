"""Captions out of the table, into the forms in which other tools read them."""

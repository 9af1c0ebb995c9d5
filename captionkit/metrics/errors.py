"""The one error of this package."""

from captionkit.errors import OutsideError


class MetricError(OutsideError):
    """A measure that cannot be had here. The message says why, and what to do; it fits into one line."""

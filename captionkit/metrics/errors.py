"""The one error of this room."""


class MetricError(RuntimeError):
    """A measure that cannot be had here. The message says why, and what to do; it fits into one line."""

"""MetricError."""

from captionkit.errors import OutsideError


class MetricError(OutsideError):
    """A metric that cannot be computed on this machine. The message is one line: the reason, and what to do."""

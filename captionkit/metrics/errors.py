"""MetricError."""


class MetricError(RuntimeError):
    """A metric that cannot be computed on this machine. The message is one line: the reason, and what to do."""

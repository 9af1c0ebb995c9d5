"""The error of files that cannot be adopted."""

from captionkit.errors import UsageError


class AdoptError(UsageError):
    """A file, or several together, that give no captioner. The message says which, what is wrong, and what to do."""


class EncoderMissingError(AdoptError):
    """All is there but the encoder: features that somebody computed can still be captioned."""

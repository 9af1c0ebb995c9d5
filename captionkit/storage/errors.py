"""What goes wrong with storage, in words and in a closed set of kinds; and nothing secret in the words."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STORAGE_ERROR_KINDS: tuple[str, ...] = ("not_found", "permission", "timeout", "unreachable", "read_error")
"""The closed set of reasons for which an address gives no bytes."""


class UsageError(ValueError):
    """An option or address that cannot work as it is written, with what to write instead."""


class StorageError(Exception):
    """Storage said no. `str()` names the address (secrets hidden), the cause and what to do about it.

    kind: one of `STORAGE_ERROR_KINDS`, or "write_error" where writing failed for another reason than these.
    hopeless: whether every other address would fail alike (no such bucket, wrong credentials, a full disk …),
    so that going on would only fail a million rows in the same way.
    """

    def __init__(self, kind: str, message: str, hopeless: bool = False) -> None:
        super().__init__(kind, message, hopeless)  # all in args, so that the error survives pickling
        if kind not in (*STORAGE_ERROR_KINDS, "write_error"):
            raise ValueError(f"unknown storage error kind {kind!r}")
        self.kind = kind
        self.message = message
        self.hopeless = hopeless

    def __str__(self) -> str:
        return self.message


Explain = Callable[[Exception, str], StorageError]
"""Turns a foreign exception about an address into a StorageError."""


@contextmanager
def explained(address: str, explain: Explain) -> Iterator[None]:
    """Lets out only StorageError and UsageError from calls into foreign storage code."""
    try:
        yield
    except (StorageError, UsageError):
        raise
    # Broad on purpose: each storage library raises its own kinds, often several layers of them, and each of
    # them means that this address could not be had. Keep nothing but such calls inside.
    except Exception as error:
        raise explain(error, address) from error


def failure(kind: str, address: str, cause: str, hint: str = "", hopeless: bool = False) -> StorageError:
    """A StorageError about an address: what is the matter, then what to do."""
    text = f"{redact(address)}: {redact(' '.join(cause.split()))[:300]}"
    return StorageError(kind, f"{text}; {hint}" if hint else text, hopeless)


_ERRNO_KINDS = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.ENAMETOOLONG: "not_found",
    errno.ELOOP: "not_found",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNREFUSED: "unreachable",
    errno.ECONNRESET: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}

# What stops every write to this disk, not just this one.
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
}


def explain_os_error(error: Exception, address: str) -> StorageError:
    """For the local disk, and for whatever a storage library without words of its own raises."""
    number = getattr(error, "errno", None)
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if number in _FULL:
        return failure("write_error", address, _FULL[number], hopeless=True)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return failure("timeout", address, "no answer in time")
    if isinstance(error, FileNotFoundError):
        return failure("not_found", address, "there is nothing at this address")
    if isinstance(error, PermissionError):
        return failure("permission", address, "access denied")
    if isinstance(error, ValueError) and "null" in said:
        return failure("not_found", address, "no address can hold a zero byte")
    if isinstance(error, OSError):
        return failure(_ERRNO_KINDS.get(number or 0, "read_error"), address, said)
    return failure("read_error", address, f"{type(error).__name__}: {said}")


# `user:password@` and `token@` before a host. A slash in an unquoted password is taken as part of it: rather
# too much of an address hidden in a message than too little of a secret.
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/@:]*:[^\s@]*@|[^\s/@]+@)(?:[^\s/@]*@)*")
_PARAMETERS = re.compile(
    r"""(?ix)
    ( (?: (?<![a-z0-9])
          (?: x-amz-(?:signature|credential|security-token) | x-goog-(?:signature|credential)
            | awsaccesskeyid | (?:aws_)?(?:secret_access_key|access_key_id|session_token)
            | (?:access|auth|refresh)_?token | api_?key | token | signature | sig | secret | password
            | passwd | authorization )
          ["']? \s* [=:]
        | [?&] key = )
      \s* ["']? (?: (?:bearer|basic) \s+ )?
    )
    [^\s&;,"'<>#)]+ """
)
_ACCESS_KEY_IDS = re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b")


def explain_write_error(error: Exception, address: str) -> StorageError:
    """As `explain_os_error`, in words for writing."""
    found = explain_os_error(error, address)
    return StorageError("write_error", found.message) if found.kind == "read_error" else found


def redact(text: str) -> str:
    """The same text without passwords, signatures, tokens and keys."""
    text = _USER_INFO.sub("***@", text)
    text = _PARAMETERS.sub(r"\1***", text)
    return _ACCESS_KEY_IDS.sub("***", text)

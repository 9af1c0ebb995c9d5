"""What goes wrong with storage, in words and in a closed set of kinds; and nothing secret in the words."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from captionkit.errors import OutsideError, UsageError
from captionkit.storage.redaction import public_uri, redact

__all__ = ["FAULTS", "STORAGE_ERROR_KINDS", "AddressError", "StorageError", "redact"]

STORAGE_ERROR_KINDS: tuple[str, ...] = (
    "not_found",
    "permission",
    "forbidden",
    "timeout",
    "unreachable",
    "read_error",
)
"""The closed set of reasons for which an address gives no bytes."""

FAULTS: tuple[str, ...] = ("slow_down", "server_error", "timeout", "unreachable", "broken")
"""What passes by itself, and so is tried again: the server is busy, the server failed, no answer in time, no
connection, and a connection that broke, in the middle of an answer perhaps."""


class AddressError(UsageError):
    """An address at which nothing can be, whatever the storage says: of a list of millions it costs its own row.

    kind: that row's, one of `STORAGE_ERROR_KINDS`.
    """

    kind = "not_found"


class StorageError(OutsideError):
    """Storage refused or failed. `str()` names the address (secrets hidden), the cause and what to do about it.

    kind: one of `STORAGE_ERROR_KINDS`, or "write_error" where writing failed for another reason than these.
    fatal: whether every other address would fail alike (no such bucket, wrong credentials, a full disk …),
    so that going on would only fail a million rows in the same way.
    fault: one of `FAULTS` for what may pass by itself, "" for what will not. Whoever sees such an error sees it after
    it has been tried again for as long as the options say.
    after: seconds for which the server asked to be left alone.
    """

    def __init__(self, kind: str, message: str, fatal: bool = False, fault: str = "", after: float = 0.0) -> None:
        super().__init__(message)
        if kind not in (*STORAGE_ERROR_KINDS, "write_error"):
            raise ValueError(f"unknown storage error kind {kind!r}")
        if fault not in ("", *FAULTS):
            raise ValueError(f"unknown fault {fault!r}")
        self.kind = kind
        self.message = message
        self.fatal = fatal
        self.fault = fault
        self.after = after

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str, bool, str, float]]:
        # Not from `args`, into which Ray Data writes advice before it sends an error home.
        return type(self), (self.kind, self.message, self.fatal, self.fault, self.after)


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
        # Not `from error`: a traceback prints the words of causes too, and theirs hold signed addresses.
        raise explain(error, address) from Cause.of(error)


class Cause(Exception):
    """What a foreign exception was, with its message, secrets hidden, with the places in the code that it came from."""

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        lines = [f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"]
        below = error.__cause__ or error.__context__
        if below is not None:
            lines.append(f"{type(below).__name__}: {' '.join(str(below).split())[:500]}")
        return cls(redact("; of ".join(lines))).with_traceback(error.__traceback__)


def failure(
    kind: str, address: str, cause: str, hint: str = "", fatal: bool = False, fault: str = "", after: float = 0.0
) -> StorageError:
    """A StorageError about an address: what is the matter, then what to do."""
    text = f"{redact(public_uri(address))}: {redact(' '.join(cause.split()))[:300]}"
    return StorageError(kind, f"{text}; {hint}" if hint else text, fatal, fault, after)


# errno: (kind, fault)
_ERRNO_KINDS = {
    errno.ENOENT: ("not_found", ""),
    errno.ENOTDIR: ("not_found", ""),
    errno.ENAMETOOLONG: ("not_found", ""),
    errno.ELOOP: ("not_found", ""),
    errno.EACCES: ("permission", ""),
    errno.EPERM: ("permission", ""),
    errno.ETIMEDOUT: ("timeout", "timeout"),
    errno.ECONNREFUSED: ("unreachable", "unreachable"),
    errno.EHOSTUNREACH: ("unreachable", "unreachable"),
    errno.ENETUNREACH: ("unreachable", "unreachable"),
    errno.ECONNRESET: ("unreachable", "broken"),
    errno.ECONNABORTED: ("unreachable", "broken"),
    errno.EPIPE: ("unreachable", "broken"),
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
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, socket.gaierror):
        return no_such_host(error, address)
    if number in _FULL:
        return failure("write_error", address, _FULL[number], "make room, or choose another place", fatal=True)
    if number == errno.EFBIG:
        return failure("write_error", address, "files there may not become so large", "see `ulimit -f`")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return failure("timeout", address, "no answer in time", fault="timeout")
    if isinstance(error, FileNotFoundError):
        return failure("not_found", address, "there is nothing at this address")
    if isinstance(error, PermissionError):
        return failure("permission", address, "access denied")
    if isinstance(error, ValueError) and "null" in message:
        return failure("not_found", address, "no address can hold a zero byte")
    status = next((code for name in ("status", "code", "status_code") if (code := getattr(error, name, None))), None)
    if isinstance(status, int) and (fault := fault_of(status)):
        return failure("timeout" if fault == "timeout" else "read_error", address, message, fault=fault)
    if isinstance(error, OSError):
        kind, fault = _ERRNO_KINDS.get(number or 0, ("read_error", ""))
        return failure(kind, address, message, fault=fault)
    return failure("read_error", address, f"{type(error).__name__}: {message}")


def fault_of(status: int) -> str:
    """The fault that an HTTP status stands for; "" for one that will not pass by itself."""
    if status in (429, 503):
        return "slow_down"
    if status in (408, 504):
        return "timeout"
    return "server_error" if status in (500, 502, *range(520, 528)) else ""


def retry_after(value: object) -> float:
    """Seconds of a header `Retry-After`; 0 where it is missing, or a date."""
    text = str(value or "").strip()
    return float(text) if text.isdecimal() and len(text) < 7 else 0.0


def no_such_host(error: BaseException, address: str, hint: str = "", fatal: bool = False) -> StorageError:
    """A name that does not exist, which no waiting will change; or a name server that does not answer, which will."""
    if getattr(error, "errno", None) in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
        return failure("unreachable", address, "there is no host of this name", hint, fatal)
    return failure("unreachable", address, "the host's name could not be looked up", hint, fault="unreachable")


def explain_write_error(error: Exception, address: str) -> StorageError:
    """As `explain_os_error`, in words for writing. Who may not write one file of an output may write none."""
    cause = explain_os_error(error, address)
    kind = "write_error" if cause.kind == "read_error" else cause.kind
    return StorageError(kind, cause.message, cause.fatal or kind == "permission", cause.fault, cause.after)

"""What an S3 server, and the libraries that talk to it, say when something is wrong, in our words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

from captionkit.errors import UsageError
from captionkit.storage.errors import (
    StorageError,
    explain_os_error,
    failure,
    fault_of,
    no_such_host,
    redact,
    retry_after,
)


class _Known(NamedTuple):
    kind: str
    cause: str
    hint: str = ""
    fatal: bool = False
    fault: str = ""


_NEEDS_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; for a public bucket, read anonymously"
_NEEDS_ENDPOINT = "check the endpoint: AWS_ENDPOINT_URL or the option endpoint_url"
_WRONG_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the endpoint they are for"
_OLD_KEYS = "log in again or renew AWS_SESSION_TOKEN"
_OTHER_REGION = "set AWS_REGION or the option region"
_MAY = "check what these credentials may read"

_SLOW_DOWN = _Known("read_error", "the server asks to slow down", "fewer at a time", fault="slow_down")
_FAILED = _Known("read_error", "the server failed", fault="server_error")
_BROKEN = _Known("read_error", "the connection broke", fault="broken")
_SILENT = _Known("unreachable", "nothing answers there", _NEEDS_ENDPOINT, fault="unreachable")
_NO_ANSWER = _Known("timeout", "no answer in time", fault="timeout")
_FULL = _Known("write_error", "the storage is full, or its quota used up", "make room there", True)
_DENIED = _Known("permission", "access denied", _MAY)
_NO_OBJECT = _Known("not_found", "there is no such object")
_EXPIRED = _Known("permission", "the session token has expired", _OLD_KEYS, True)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CODES: dict[str, _Known] = {
    "NoSuchKey": _NO_OBJECT,
    "404": _NO_OBJECT,
    "NoSuchBucket": _Known(
        "not_found",
        "there is no such bucket",
        "check its name and the endpoint: AWS_ENDPOINT_URL or the option endpoint_url",
        True,
    ),
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "AllAccessDisabled": _Known("permission", "access to this bucket is disabled", "", True),
    "InvalidAccessKeyId": _Known("permission", "the access key is not known there", _WRONG_KEYS, True),
    "SignatureDoesNotMatch": _Known("permission", "the secret key is wrong", _WRONG_KEYS, True),
    "InvalidToken": _Known("permission", "the session token is wrong", _OLD_KEYS, True),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "RequestTimeTooSkewed": _Known("permission", "this machine's clock is wrong", "set the clock", True),
    "PermanentRedirect": _Known("read_error", "the bucket is in another region", _OTHER_REGION, True),
    "AuthorizationHeaderMalformed": _Known("read_error", "the region is wrong", _OTHER_REGION, True),
    "InvalidBucketName": _Known("not_found", "no bucket can have this name"),
    "InvalidObjectState": _Known("read_error", "the object is archived", "restore it first"),
    "InvalidRange": _Known("read_error", "it changed while it was being read"),
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
    "507": _FULL,
    "RequestTimeout": _NO_ANSWER,
    "IncompleteBody": _BROKEN,
    "BadDigest": _BROKEN,
    "XAmzContentSHA256Mismatch": _BROKEN,
    "InternalError": _FAILED,
    "OperationAborted": _FAILED,
    "SlowDown": _SLOW_DOWN,
    "ServiceUnavailable": _SLOW_DOWN,
    "TooManyRequests": _SLOW_DOWN,
    "TooManyRequestsException": _SLOW_DOWN,
    "Throttling": _SLOW_DOWN,
    "ThrottlingException": _SLOW_DOWN,
    "ThrottledException": _SLOW_DOWN,
    "RequestThrottled": _SLOW_DOWN,
    "RequestLimitExceeded": _SLOW_DOWN,
    "BandwidthLimitExceeded": _SLOW_DOWN,
}
_FAULTS = {"slow_down": _SLOW_DOWN, "server_error": _FAILED, "timeout": _NO_ANSWER}

# The libraries' own exceptions, by name, so that they are not imported before S3 is needed.
_EXCEPTIONS: dict[str, _Known] = {
    "NoCredentialsError": _Known("permission", "no credentials found", _NEEDS_KEYS, True),
    "PartialCredentialsError": _Known("permission", "half of the credentials is missing", _NEEDS_KEYS, True),
    # Where machines have roles, a thousand that start at once may wait for theirs.
    "CredentialRetrievalError": _Known(
        "permission", "credentials could not be fetched", _NEEDS_KEYS, True, "unreachable"
    ),
    "SSOTokenLoadError": _Known("permission", "not logged in", "aws sso login", True),
    "UnauthorizedSSOTokenError": _Known("permission", "the login has expired", "aws sso login", True),
    "TokenRetrievalError": _Known("permission", "the login has expired", "aws sso login", True),
    "SSLError": _Known("unreachable", "the certificate is not trusted", _NEEDS_ENDPOINT, True),
    "ParamValidationError": _Known("not_found", "no bucket can have this name"),
    "ConnectTimeoutError": _Known("unreachable", "nothing answers there in time", _NEEDS_ENDPOINT, fault="unreachable"),
    "ProxyConnectionError": _Known(
        "unreachable", "the proxy does not answer", "check HTTPS_PROXY", fault="unreachable"
    ),
    "ReadTimeoutError": _NO_ANSWER,
    "ConnectionClosedError": _BROKEN,
    "IncompleteReadError": _BROKEN,
    "ResponseStreamingError": _BROKEN,
    "ClientPayloadError": _BROKEN,
    "ServerDisconnectedError": _BROKEN,
    "ResponseParserError": _Known("read_error", "the answer is not of S3", _NEEDS_ENDPOINT, fault="server_error"),
    "HTTPClientError": _BROKEN,
}


def explain_s3_error(error: Exception, address: str) -> StorageError:
    """Raises UsageError for a profile or endpoint that cannot be."""
    for layer in _layers(error):
        response = getattr(layer, "response", None)
        if isinstance(response, dict):
            return _explain_answer(response, address)
        names = [family.__name__ for family in type(layer).__mro__]
        if "EndpointConnectionError" in names:
            return _explain_silence(layer, address)
        for name in names:
            if name in _EXCEPTIONS:
                return _failure(_EXCEPTIONS[name], address)
        if names[0] == "ProfileNotFound":
            raise UsageError(f"{layer}; see ~/.aws/config") from None
        if isinstance(layer, ValueError) and "Invalid endpoint" in str(layer):
            raise UsageError(f"{redact(str(layer))}; it must begin with http:// or https://") from None
    return explain_os_error(error, address)


def explain_s3_write_error(error: Exception, address: str) -> StorageError:
    """In words for writing. Who may not write one object of an output may write none."""
    cause = explain_s3_error(error, address)
    kind = "write_error" if cause.kind == "read_error" else cause.kind
    message = cause.message.replace(_MAY, "check what these credentials may write")
    return StorageError(kind, message, cause.fatal or kind == "permission", cause.fault, cause.after)


def error_status(error: Exception) -> int:
    """The HTTP status of the answer that an exception stands for, 0 where there was none."""
    for layer in _layers(error):
        response = getattr(layer, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    return 0


def _explain_answer(response: dict[str, dict[str, object]], address: str) -> StorageError:
    told, about = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(told.get("Code", "")), str(about.get("HTTPStatusCode", ""))
    known = _CODES.get(code) or _CODES.get(status)
    if known is None and status.isdecimal():
        known = _FAULTS.get(fault_of(int(status)))
    if known is None:
        message = str(told.get("Message") or "")
        return failure("read_error", address, f"{code} {message}".strip() or f"status {status}")
    headers = about.get("HTTPHeaders")
    return _failure(known, address, code, retry_after(headers.get("retry-after") if isinstance(headers, dict) else ""))


def _explain_silence(error: BaseException, address: str) -> StorageError:
    """botocore has one word for a host that does not exist, one that refuses, and one that hangs up."""
    for layer in _layers(getattr(error, "kwargs", {}).get("error")):
        names = {family.__name__ for family in type(layer).__mro__}
        reason = getattr(layer, "os_error", None) or layer
        if "ClientConnectorDNSError" in names or isinstance(reason, socket.gaierror):
            return no_such_host(reason, address, _NEEDS_ENDPOINT, fatal=True)
        if "ClientConnectionError" in names and "ClientConnectorError" not in names:
            return _failure(_BROKEN, address)
    return _failure(_SILENT, address)


def _failure(known: _Known, address: str, code: str = "", after: float = 0.0) -> StorageError:
    cause = f"{known.cause} ({code})" if code else known.cause
    return failure(known.kind, address, cause, known.hint, known.fatal, known.fault, after)


def _layers(error: BaseException | None) -> Iterator[BaseException]:
    for layer in (error, getattr(error, "__cause__", None), getattr(error, "__context__", None)):
        if layer is not None:
            yield layer

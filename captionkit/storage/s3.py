"""Object storage that speaks S3, through s3fs.

Addresses are split here and handed on as bucket and key, so that a key may hold anything: spaces, `#`, `?`, `%`,
`*`, empty folders. s3fs brings the session, its credentials and retries, and one thread for all connections.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from fsspec.asyn import sync
from pyarrow.fs import FSSpecHandler, PyFileSystem

from captionkit.storage.addresses import Pattern, is_hidden, split_scheme
from captionkit.storage.backends import GuardedFile
from captionkit.storage.errors import (
    StorageError,
    UsageError,
    explain_os_error,
    explained,
    failure,
    redact,
)
from captionkit.storage.options import Entry, StorageOptions

_NEEDS_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; for a public bucket, read anonymously"
_NEEDS_ENDPOINT = "check the endpoint: AWS_ENDPOINT_URL or the option endpoint_url"

# S3's error codes: (kind, cause, hint, hopeless).
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_WRONG_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the endpoint they are for"
_OLD_KEYS = "log in again or renew AWS_SESSION_TOKEN"
_OTHER_REGION = "set AWS_REGION or the option region"
_CODES: dict[str, tuple[str, str, str, bool]] = {
    "NoSuchKey": ("not_found", "there is no such object", "", False),
    "404": ("not_found", "there is no such object", "", False),
    "NoSuchBucket": (
        "not_found",
        "there is no such bucket",
        "check its name and the endpoint: AWS_ENDPOINT_URL or the option endpoint_url",
        True,
    ),
    "AccessDenied": ("permission", "access denied", "check what these credentials may read", False),
    "AllAccessDisabled": ("permission", "access to this bucket is disabled", "", True),
    "403": ("permission", "access denied", "check what these credentials may read", False),
    "InvalidAccessKeyId": ("permission", "the access key is not known there", _WRONG_KEYS, True),
    "SignatureDoesNotMatch": ("permission", "the secret key is wrong", _WRONG_KEYS, True),
    "InvalidToken": ("permission", "the session token is wrong", _OLD_KEYS, True),
    "ExpiredToken": ("permission", "the session token has expired", _OLD_KEYS, True),
    "TokenRefreshRequired": ("permission", "the session token has expired", _OLD_KEYS, True),
    "RequestTimeTooSkewed": ("permission", "this machine's clock is wrong", "set the clock", True),
    "PermanentRedirect": ("read_error", "the bucket is in another region", _OTHER_REGION, True),
    "AuthorizationHeaderMalformed": ("read_error", "the region is wrong", _OTHER_REGION, True),
    "InvalidBucketName": ("not_found", "no bucket can have this name", "", False),
    "InvalidObjectState": ("read_error", "the object is archived", "restore it first", False),
    "RequestTimeout": ("timeout", "no answer in time", "", False),
    "SlowDown": ("read_error", "the server asks to slow down", "fewer at a time", False),
}

# botocore's own exceptions, by name, so that botocore is not imported before S3 is needed.
_EXCEPTIONS: dict[str, tuple[str, str, str, bool]] = {
    "NoCredentialsError": ("permission", "no credentials found", _NEEDS_KEYS, True),
    "PartialCredentialsError": ("permission", "half of the credentials is missing", _NEEDS_KEYS, True),
    "CredentialRetrievalError": ("permission", "credentials could not be fetched", _NEEDS_KEYS, True),
    "SSOTokenLoadError": ("permission", "not logged in", "aws sso login", True),
    "UnauthorizedSSOTokenError": ("permission", "the login has expired", "aws sso login", True),
    "TokenRetrievalError": ("permission", "the login has expired", "aws sso login", True),
    "EndpointConnectionError": ("unreachable", "nothing answers there", _NEEDS_ENDPOINT, True),
    "ConnectTimeoutError": ("unreachable", "nothing answers there in time", _NEEDS_ENDPOINT, True),
    "ProxyConnectionError": ("unreachable", "the proxy does not answer", "check HTTPS_PROXY", True),
    "SSLError": ("unreachable", "the certificate is not trusted", _NEEDS_ENDPOINT, True),
    "ParamValidationError": ("not_found", "no bucket can have this name", "", False),
    "ReadTimeoutError": ("timeout", "no answer in time", "", False),
    "ConnectionClosedError": ("read_error", "the connection was closed", "", False),
}


class S3Backend:
    """Buckets of one endpoint, as `options` and the environment say."""

    def __init__(self, scheme: str, options: StorageOptions) -> None:
        from s3fs import S3FileSystem  # here, as it takes a second that local work need not wait for

        self._scheme = scheme
        # AWS_REGION is what most S3 tools read; botocore itself knows only AWS_DEFAULT_REGION.
        region = options.region or os.environ.get("AWS_REGION")
        config: dict[str, Any] = {"max_pool_connections": 128, "connect_timeout": 10, "read_timeout": 60}
        if options.path_style:
            config["s3"] = {"addressing_style": "path"}
        self._fs = S3FileSystem(
            anon=options.anonymous,
            endpoint_url=options.endpoint_url,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,  # its own cache does not see when AWS_… variables change
            max_concurrency=1,  # else each read begins with a HEAD, to see whether parts would pay
            default_block_size=8 << 20,
            default_fill_cache=False,
            **({"profile": options.profile} if options.profile else {}),
        )

    def read(self, address: str) -> bytes:
        bucket, key = self._split(address, object_needed=True)
        with explained(address, self._explain):
            data: bytes = self._fs.cat_file(f"{bucket}/{key}")
        return data

    def open(self, address: str) -> BinaryIO:
        bucket, key = self._split(address, object_needed=True)
        size = self.stat(address).size
        with explained(address, self._explain):
            file = self._fs.open(f"{bucket}/{key}", "rb", size=size)
        return io.BufferedReader(GuardedFile(file, address, self._explain), 1 << 20)

    def write(self, address: str, data: bytes) -> None:
        """One PUT, whole or absent; beyond 100 MB a multipart upload, which appears whole at its end."""
        bucket, key = self._split(address, object_needed=True)
        with explained(address, self._explain_write):
            self._fs.pipe_file(f"{bucket}/{key}", data)

    def delete(self, address: str) -> None:
        bucket, key = self._split(address, object_needed=True)
        with explained(address, self._explain_write):
            self._fs.call_s3("delete_object", Bucket=bucket, Key=key)

    def stat(self, address: str) -> Entry:
        bucket, key = self._split(address, object_needed=True)
        with explained(address, self._explain):
            try:
                head = self._fs.call_s3("head_object", Bucket=bucket, Key=key)
            except OSError:
                # The answer to a HEAD has no body and so no reason; a GET tells a missing bucket from a
                # missing object, and wrong credentials from a forbidden object.
                sync(self._fs.loop, self._ask_why, bucket, key)
                raise
        return Entry(address, head["ContentLength"], _bare(head.get("ETag")))

    async def _ask_why(self, bucket: str, key: str) -> None:
        response = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
        response["Body"].close()

    def arrow(self, address: str) -> tuple[str, Any]:
        return address.partition("://")[2], PyFileSystem(FSSpecHandler(self._fs))

    def is_folder(self, address: str) -> bool:
        bucket, key = self._split(address)
        prefix = f"{key.rstrip('/')}/" if key else ""
        return not key or next(self._scan(address, bucket, prefix), None) is not None

    def list(self, folder: str) -> Iterator[Entry]:
        bucket, key = self._split(folder)
        prefix = f"{key.rstrip('/')}/" if key else ""
        start = f"{self._scheme}://{bucket}/{prefix}"
        empty = True
        for entry in self._scan(folder, bucket, prefix):
            empty = False
            if not is_hidden(entry.uri[len(start) :]):
                yield entry
        if empty and key.endswith("/"):
            raise failure("not_found", folder, "there is no such folder")
        if empty and key:
            yield self.stat(folder)

    def glob(self, pattern: Pattern) -> Iterator[Entry]:
        bucket, key = self._split(pattern.literal)
        if not key and not pattern.literal.endswith("/"):
            raise UsageError(f"the bucket's name must not hold wildcards: {redact(pattern.literal)}*")
        yield from self._scan(pattern.literal, bucket, key)

    def _scan(self, address: str, bucket: str, prefix: str) -> Iterator[Entry]:
        """All objects whose key begins with `prefix`, page by page of a thousand; the listing is never held."""
        more: dict[str, str] = {}
        while True:
            with explained(address, self._explain):
                page = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            for item in page.get("Contents", ()):
                if item["Key"].endswith("/") and item["Size"] == 0:
                    continue  # what consoles write to show an empty folder
                uri = f"{self._scheme}://{bucket}/{item['Key']}"
                yield Entry(uri, item["Size"], _bare(item.get("ETag")))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _split(self, address: str, object_needed: bool = False) -> tuple[str, str]:
        bucket, _, key = split_scheme(address)[1].partition("/")
        if not bucket:
            raise UsageError(f"names no bucket: {address}")
        if "@" in bucket or ":" in bucket:
            raise UsageError(
                f"{redact(address)}: keys do not belong in addresses; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if object_needed and not key:
            raise UsageError(f"names a bucket, not an object in it: {address}")
        return bucket, key

    def _explain(self, error: Exception, address: str) -> StorageError:
        for layer in (error, error.__cause__, error.__context__):
            response = getattr(layer, "response", None)
            if isinstance(response, dict):
                code = str(response.get("Error", {}).get("Code", ""))
                status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
                known = _CODES.get(code) or _CODES.get(status)
                said = response.get("Error", {}).get("Message") or ""
                if known is None:
                    return failure("read_error", address, f"{code} {said}".strip() or f"status {status}")
                kind, cause, hint, hopeless = known
                return failure(kind, address, f"{cause} ({code})" if code else cause, hint, hopeless)
            for family in type(layer).__mro__:
                if family.__name__ in _EXCEPTIONS:
                    kind, cause, hint, hopeless = _EXCEPTIONS[family.__name__]
                    return failure(kind, address, cause, hint, hopeless)
            if type(layer).__name__ == "ProfileNotFound":
                raise UsageError(f"{layer}; see ~/.aws/config") from error
            if isinstance(layer, ValueError) and "Invalid endpoint" in str(layer):
                raise UsageError(f"{redact(str(layer))}; it must begin with http:// or https://") from error
        return explain_os_error(error, address)

    def _explain_write(self, error: Exception, address: str) -> StorageError:
        found = self._explain(error, address)
        if found.kind == "read_error":
            return StorageError("write_error", found.message, found.hopeless)
        return found


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')

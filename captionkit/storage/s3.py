"""Object storage that speaks S3, through s3fs.

Addresses are split here and handed on as bucket and key, so that a key may hold anything: spaces, `#`, `?`, `%`,
`*`, empty folders. s3fs brings the session, its credentials, and one thread for all connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache, partial
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import pyarrow as pa
from fsspec.asyn import sync
from pyarrow.fs import FSSpecHandler, PyFileSystem

from captionkit.errors import UsageError
from captionkit.storage.addresses import Pattern, is_hidden, split_scheme
from captionkit.storage.backends import spooled
from captionkit.storage.errors import AddressError, StorageError, explained, failure, redact
from captionkit.storage.key_ranges import SCHEMA, KeyRange, Part, divide, in_order
from captionkit.storage.options import Entry, StorageOptions
from captionkit.storage.ranges import Body, Changed, RangeFile, buffered, changed, cut_short
from captionkit.storage.retrying import Retries
from captionkit.storage.s3_access import Access
from captionkit.storage.s3_errors import error_status, explain_s3_error, explain_s3_write_error
from captionkit.storage.s3_session import filesystem
from captionkit.storage.spread import Spread

T = TypeVar("T")

PART = 50 << 20
"""Bytes of one part of a multipart upload."""
ASK_S = 10.0
FIRST_PAGES = 4
"""Pages of a listing after which its ranges are listed side by side."""
PART_PAGES = 16
"""Pages of a range that one task lists, at most: 16,000 keys."""
DIRECTORY_BUCKET = "--x-s3"
"""How the names of buckets end whose keys are listed in no order (S3 Express One Zone)."""
LIST_THREADS = 8
"""Reading a page takes a fifth of the time that S3 takes over it, so that more would wait for each other."""
LOST_RACE = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
"""What S3 answers to a conditional PUT of an object that is there, or is being made."""


Object = tuple[str, int, str]
"""Key, size, version."""


class _Page(NamedTuple):
    """A page of a listing."""

    objects: list[Object]
    rest: KeyRange | None
    """What is behind it in its range; None where nothing is."""
    ordered: bool
    """Whether all keys until here came in their order."""


class _Unordered(Exception):
    """The server takes no notice of where it is to begin."""


class S3Backend:
    """Buckets of one endpoint, as `options` and the environment say."""

    # For what speaks to the server in other words than these here: see `_fs`.
    _explain = staticmethod(explain_s3_error)
    _explain_write = staticmethod(explain_s3_write_error)

    def __init__(self, scheme: str, options: StorageOptions) -> None:
        self._scheme, self._options = scheme, options
        self._retries = Retries(options.retries, options.retry_seconds)
        self._access = Access()
        self._plain = filesystem(options, retries=False)  # but for ours: see `retrying`

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_this_process, (self._scheme, self._options)

    @cached_property
    def _fs(self) -> Any:
        """For callers whose calls are not retried here, with the libraries' own retries."""
        return filesystem(self._options, retries=True)

    def call(self, address: str, method: str, **arguments: Any) -> dict[str, Any]:
        """One of S3's operations as botocore names it, on the bucket of an address; retried and explained."""
        writes = method.startswith(("put", "delete", "create", "upload", "complete", "abort"))
        bucket, _ = self._split(address)
        act = partial(self._plain.call_s3, method, Bucket=bucket, **arguments)
        answer: dict[str, Any] = self._patiently(address, act, writes=writes)
        return answer

    def read(self, address: str) -> bytes:
        self._split(address, object_needed=True)
        return self._body(address, Body(patience=self._options.timeout_seconds))

    def open(self, address: str) -> BinaryIO:
        entry = self.stat(address)

        def fetch(start: int, end: int) -> bytes:
            return self._body(address, Body(start, end, entry.version, self._options.timeout_seconds))

        return buffered(RangeFile(entry.size or 0, fetch))

    def _body(self, address: str, body: Body) -> bytes:
        bucket, key = self._split(address)
        fixed = bool(body.version)

        def receive() -> None:
            if body.done:  # the last try broke after the last byte
                return
            try:
                sync(self._plain.loop, self._receive, bucket, key, body)
            except Changed:
                raise changed(address, fixed) from None
            if not body.whole:
                raise cut_short(address)

        self._patiently(address, receive, progress=lambda: len(body.data))
        self._access.given(bucket)
        return bytes(body.data)

    async def _receive(self, bucket: str, key: str, body: Body) -> None:
        more = {"Range": body.range} if body.range else {}
        answer = await self._plain._call_s3("get_object", Bucket=bucket, Key=key, **more)
        stream = answer["Body"]
        try:
            place = answer.get("ContentRange") or f"bytes 0-/{answer['ContentLength']}"
            first, total = place.removeprefix("bytes ").split("-")[0], place.rpartition("/")[2]
            body.begin(_bare(answer.get("ETag")), int(first), int(total) if total.isdecimal() else None)
            while not body.done and (chunk := await stream.read(1 << 20)):
                body.add(chunk)
        finally:
            stream.close()

    def write(self, address: str, data: bytes) -> None:
        """One PUT, whole or absent; beyond 100 MB a multipart upload, which appears whole at its end."""
        self._upload(address, len(data), lambda start, end: data[start:end])

    def create(self, address: str) -> AbstractContextManager[BinaryIO]:
        def publish(file: BinaryIO, size: int) -> None:
            def part(start: int, end: int) -> bytes:
                file.seek(start)
                return file.read(end - start)

            self._upload(address, size, part)

        return spooled(publish)

    def _upload(self, address: str, size: int, part: Callable[[int, int], bytes]) -> None:
        """Upload what `part` gives of the bytes from one place to another."""
        _, key = self._split(address, object_needed=True)
        if size < 2 * PART:
            self.call(address, "put_object", Key=key, Body=part(0, size))
            return
        upload = {"Key": key, "UploadId": self.call(address, "create_multipart_upload", Key=key)["UploadId"]}
        try:
            parts = []
            for number, start in enumerate(range(0, size, PART), 1):
                body = part(start, min(start + PART, size))
                made = self.call(address, "upload_part", **upload, PartNumber=number, Body=body)
                parts.append({"PartNumber": number, "ETag": made["ETag"]})
            self._complete(address, upload, parts, size)
        except BaseException:
            with contextlib.suppress(Exception):  # what is there of it would be paid for, unseen, for ever
                self._plain.call_s3("abort_multipart_upload", Bucket=self._split(address)[0], **upload)
            raise

    def _complete(self, address: str, upload: dict[str, str], parts: list[dict[str, Any]], size: int) -> None:
        try:
            self.call(address, "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except StorageError as error:
            # A try whose answer was lost may have completed it, and the next one finds no such upload.
            if error.kind != "not_found" or error.fatal:
                raise
            entry = self.stat(address)
            if entry.size != size or not entry.version.endswith(f"-{len(parts)}"):
                raise

    def create_if_absent(self, address: str, data: bytes) -> bool | None:
        """By a PUT with `If-None-Match: *`; None where the server knows no conditional PUT."""
        bucket, key = self._split(address, object_needed=True)
        with explained(address, self._explain_write):
            try:
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except OSError as error:
                response = getattr(error.__cause__, "response", None) or {}
                code = str(response.get("Error", {}).get("Code"))
                # 409: another such PUT was under way, and neither is sure of having won; the caller looks again.
                if isinstance(error, FileExistsError) or code in LOST_RACE:
                    return False
                if code in ("NotImplemented", "501"):
                    return None
                raise
        return True

    def read_with_age(self, address: str) -> tuple[bytes, float]:
        """The age by the answer's `Date` and `Last-Modified`."""
        bucket, key = self._split(address, object_needed=True)

        async def get() -> tuple[bytes, float]:
            answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
            date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
            now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
            return data, (now - answer["LastModified"]).total_seconds()

        with explained(address, self._explain):
            data_and_age: tuple[bytes, float] = sync(self._fs.loop, get)
        return data_and_age

    def delete(self, address: str) -> None:
        _, key = self._split(address, object_needed=True)
        self.call(address, "delete_object", Key=key)

    def stat(self, address: str) -> Entry:
        bucket, key = self._split(address)
        if not key:
            raise failure("not_found", address, "a bucket, not an object in it")

        def ask() -> Any:
            try:
                return self._plain.call_s3("head_object", Bucket=bucket, Key=key)
            except OSError as error:
                # The answer to a HEAD has no body and so no reason; a GET tells a missing bucket from a
                # missing object, and wrong credentials from a forbidden object.
                if 400 <= error_status(error) < 500:
                    sync(self._plain.loop, self._read_a_byte, bucket, key)
                raise

        head = self._patiently(address, ask)
        self._access.given(bucket)
        return Entry(address, head["ContentLength"], _bare(head.get("ETag")))

    async def _read_a_byte(self, bucket: str, key: str) -> None:
        answer = await self._plain._call_s3("get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
        answer["Body"].close()

    def arrow(self, address: str) -> tuple[str, Any]:
        return address.partition("://")[2], PyFileSystem(_Handler(self._options))

    def is_folder(self, address: str) -> bool:
        bucket, key = self._split(address)
        prefix = f"{key.rstrip('/')}/" if key else ""
        return not key or next(self._scan(address, bucket, prefix), None) is not None

    def list(self, folder: str, spread: Spread | None = None) -> Iterator[Entry]:
        bucket, key = self._split(folder)
        prefix = f"{key.rstrip('/')}/" if key else ""
        start = f"{self._scheme}://{bucket}/{prefix}"
        empty = True
        for entry in self._scan(folder, bucket, prefix, spread):
            empty = False
            if not is_hidden(entry.uri[len(start) :]):
                yield entry
        if empty and key.endswith("/"):
            raise failure("not_found", folder, "there is no such folder")
        if empty and key:
            yield self.stat(folder)

    def glob(self, pattern: Pattern, spread: Spread | None = None) -> Iterator[Entry]:
        bucket, key = self._split(pattern.literal)
        if not key and not pattern.literal.endswith("/"):
            raise UsageError(f"the bucket's name must not hold wildcards: {redact(pattern.literal)}*")
        yield from self._scan(pattern.literal, bucket, key, spread)

    def region(self, address: str) -> str | None:
        try:
            answer = self.call(address, "head_bucket")
        except StorageError:
            return None  # nothing depends on it
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or None

    def _scan(self, address: str, bucket: str, prefix: str, spread: Spread | None = None) -> Iterator[Entry]:
        """All objects whose key begins with `prefix`, in the order of keys; the listing is never held.

        Page by page of a thousand; where it is long, ranges of keys side by side, on threads of this process if not
        spread otherwise.
        """
        start = f"{self._scheme}://{bucket}/"
        pages = self._pages(address, prefix, KeyRange(""))
        for number, page in enumerate(pages, 1):
            for key, size, version in page.objects:
                yield Entry(start + key, size, version)
            if number == FIRST_PAGES and page.rest is not None:
                break
        else:
            return
        own = None if spread else ThreadPoolExecutor(LIST_THREADS, thread_name_prefix="list")
        spread = spread or Spread(cast("ThreadPoolExecutor", own), LIST_THREADS)

        def submit(keys: KeyRange) -> Future[Part]:
            return spread.executor.submit(self.list_part, address, prefix, keys)

        try:
            for batch in in_order(self._divided(address, prefix, page), submit, spread.tasks):
                for key, size, version in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Entry(start + key, size, version)
        finally:
            if own:
                own.shutdown(wait=False, cancel_futures=True)

    def list_part(self, address: str, prefix: str, keys: KeyRange) -> Part:
        """The first `PART_PAGES` pages of a range, and what is left of it then."""
        found: list[Object] = []
        for number, page in enumerate(self._pages(address, prefix, keys), 1):
            found += page.objects
            if number == PART_PAGES and page.rest is not None:
                break
        columns = zip(*found, strict=True) if found else [()] * len(SCHEMA)
        batch = pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )
        return Part(batch, self._divided(address, prefix, page) if page.rest else ())

    def _pages(self, address: str, prefix: str, keys: KeyRange) -> Iterator[_Page]:
        """The pages of a range, one at least."""
        last, until, token = keys
        ordered = not self._split(address)[0].endswith(DIRECTORY_BUCKET)
        while True:
            more = {"ContinuationToken": token} if token else {"StartAfter": last} if last else {}
            page = self.call(address, "list_objects_v2", Prefix=prefix, **more)
            contents = page.get("Contents", ())
            if contents:
                names = [last, *(item["Key"] for item in contents)]
                ordered = ordered and names == sorted(names)
                last = names[-1]
            within = contents if until is None else [item for item in contents if item["Key"] <= until]
            objects = [
                (item["Key"], item["Size"], _bare(item.get("ETag")))
                for item in within
                if not (item["Key"].endswith("/") and item["Size"] == 0)  # what consoles write to show an empty folder
            ]
            token = page["NextContinuationToken"] if page.get("IsTruncated") and len(within) == len(contents) else None
            yield _Page(objects, KeyRange(last, until, token) if token else None, ordered)
            if not token:
                return

    def _divided(self, address: str, prefix: str, page: _Page) -> tuple[KeyRange, ...]:
        """What is left behind a page, in ranges; as one where the server lists in another order, or knows no
        `StartAfter`."""

        def first_after(text: str) -> str | None:
            try:
                page = self.call(address, "list_objects_v2", Prefix=prefix, StartAfter=text, MaxKeys=1)
            except StorageError as error:
                if error.fault or error.fatal:
                    raise
                raise _Unordered from error
            found = page.get("Contents", ())
            if found and found[0]["Key"] <= text:
                raise _Unordered
            return found[0]["Key"] if found else None

        assert page.rest is not None
        if page.ordered:
            with contextlib.suppress(_Unordered):
                return divide(page.rest, len(prefix), first_after)
        return (page.rest,)

    def _patiently(
        self,
        address: str,
        action: Callable[[], T],
        writes: bool = False,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        bucket, key = self._split(address)

        def explained_action() -> T:
            with explained(address, self._explain_write if writes else self._explain):
                return action()

        try:
            return self._retries.call(explained_action, progress, lambda: self._answers(bucket))
        except StorageError as error:
            denied = error.kind == "permission" and not error.fatal and bool(key) and not error.fault
            if denied and self._access.closed(bucket, lambda: self._others(bucket, key)):
                message = f"{error.message}; so is every other object of this bucket that was asked for"
                raise StorageError(error.kind, message, fatal=True) from error.__cause__
            raise

    def _answers(self, bucket: str) -> bool:
        """Whether the server has anything but a fault to say."""
        try:
            with explained(bucket, self._explain):
                sync(self._plain.loop, self._page, bucket, "", 1)
        except StorageError as error:
            return not error.fault
        return True

    def _others(self, bucket: str, key: str) -> bool | None:
        """Whether any object beside this one can be read: some of its folder and some of the bucket are tried."""
        keys: set[str] = set()
        denied = 0
        try:
            for prefix in {key[: key.rfind("/") + 1], ""}:
                keys |= sync(self._plain.loop, self._page, bucket, prefix, 5)
            for other in sorted(keys - {key}):
                try:
                    sync(self._plain.loop, self._read_a_byte, bucket, other)
                    return True
                except OSError as error:
                    if error_status(error) == 416:  # it is empty
                        return True
                    denied += error_status(error) == 403
        except Exception:  # whatever it was: nothing is known then
            return None
        return None if denied < len(keys - {key}) else False

    async def _page(self, bucket: str, prefix: str, count: int) -> set[str]:
        asked = self._plain._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=count)
        page = await asyncio.wait_for(asked, ASK_S)
        return {item["Key"] for item in page.get("Contents", ())}

    def _split(self, address: str, object_needed: bool = False) -> tuple[str, str]:
        bucket, _, key = split_scheme(address)[1].partition("/")
        if not bucket:
            raise AddressError(f"names no bucket: {redact(address)}")
        if "@" in bucket or ":" in bucket:
            raise AddressError(
                f"{redact(address)}: keys do not belong in addresses; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if object_needed and not key:
            raise AddressError(f"names a bucket, not an object in it: {redact(address)}")
        return bucket, key


@lru_cache(maxsize=4)
def _in_this_process(scheme: str, options: StorageOptions) -> S3Backend:
    """What a backend is in a process that its tasks are sent to: connections do not travel, and are made once."""
    return S3Backend(scheme, options)


class _Handler(FSSpecHandler):  # type: ignore[misc]
    """Goes to other processes as options alone: s3fs would send its session, 2 MB, and what botocore keeps in there
    once a server has answered with an error does not come back (a RecursionError)."""

    def __init__(self, options: StorageOptions) -> None:
        super().__init__(filesystem(options, retries=True))
        self._options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return _Handler, (self._options,)


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')

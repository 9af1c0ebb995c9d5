"""How to reach storage, and what is known of an object without reading it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from captionkit.errors import UsageError
from captionkit.storage.redaction import redact

_SCHEME_NAME = re.compile(r"[a-z][a-z0-9+.\-]*")


@dataclass(frozen=True)
class StorageOptions:
    """Where storage is, in the words S3 users know, and how to deal with it. Never secrets.

    Keys come from where every S3 tool looks for them: environment, profile, role. What is not set here is
    taken from the environment and from ~/.aws (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_REGION …).
    """

    endpoint_url: str | None = None
    """Address of an S3 server other than Amazon's."""
    region: str | None = None
    """Region of the buckets."""
    profile: str | None = None
    """Profile of ~/.aws to take keys and settings from."""
    anonymous: bool = False
    """Sign nothing, for public buckets."""
    path_style: bool = False
    """Ask for http://endpoint/bucket/key rather than http://bucket.endpoint/key; with an endpoint of one's own this
    is what happens anyway."""
    retries: int = 30
    """How often at most a read, write or listing is tried again after a fault that passes (timeouts, broken
    connections, a busy or failing server)."""
    retry_seconds: float = 120.0
    """For how long it is tried again: an outage of half of this is always survived."""
    timeout_seconds: float = 30.0
    """Seconds without an answer after which a connection is given up."""
    user_agent: str | None = None
    """What web servers are told of who asks, as in "OurArchive/1.0 (mail@example.org)". Default: captionkit and its
    version. Some servers, Wikimedia's among them, refuse those who do not name a contact."""
    schemes: tuple[str, ...] = ()
    """The only kinds of address allowed (s3, https, file …; file stands for local paths too). Default: all."""

    def __post_init__(self) -> None:
        endpoint = self.endpoint_url
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise UsageError(f"endpoint_url must begin with http:// or https://, not {redact(endpoint)!r}")
        if endpoint is not None and redact(endpoint) != endpoint:
            raise UsageError("endpoint_url must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if self.retries < 0 or self.retry_seconds < 0 or self.timeout_seconds <= 0:
            raise UsageError("retries and retry_seconds must not be negative, and timeout_seconds more than 0")
        for scheme in self.schemes:
            if not _SCHEME_NAME.fullmatch(scheme):
                raise UsageError(f"schemes: {redact(scheme)!r} is not one; name them as in s3, https, file")
        if self.anonymous and self.profile is not None:
            raise UsageError("anonymous and profile exclude each other")

        if self.user_agent is not None and not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise UsageError("user_agent must be printable ASCII")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes and `from_json` gives back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StorageOptions:
        """Undoes `to_json`. Raises UsageError for names it does not know."""
        unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UsageError(f"unknown storage option: {', '.join(sorted(unknown))}")
        given = dict(fields)
        if "schemes" in given:
            given["schemes"] = tuple(given["schemes"])
        return cls(**given)


@dataclass(frozen=True)
class Entry:
    """An object, unread.

    size: in bytes, None where unknown. version: changes when the content does (an ETag, or size and
    modification time) and is the same however often it is asked for; "" where unknown.
    """

    uri: str
    size: int | None
    version: str


class Entries(NamedTuple):
    """Several of them, as the columns of `Entry`."""

    uris: list[str]
    sizes: list[int | None]
    versions: list[str]

    def add(self, uri: str, size: int | None, version: str) -> None:
        self.uris.append(uri)
        self.sizes.append(size)
        self.versions.append(version)

    def each(self) -> Iterator[Entry]:
        """One by one."""
        return map(Entry, self.uris, self.sizes, self.versions)

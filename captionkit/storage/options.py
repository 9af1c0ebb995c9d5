"""How to reach storage, and what is known of an object without reading it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captionkit.storage.errors import UsageError, redact


@dataclass(frozen=True)
class StorageOptions:
    """Where object storage is, in the words S3 users know. Never secrets.

    Keys come from where every S3 tool looks for them: environment, profile, role. What is not set here is
    taken from the environment and from ~/.aws (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_REGION …).

    anonymous: sign nothing, for public buckets. path_style: http://endpoint/bucket/key rather than
    http://bucket.endpoint/key; with an endpoint of one's own this is what happens anyway.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    path_style: bool = False

    def __post_init__(self) -> None:
        endpoint = self.endpoint_url
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise UsageError(f"endpoint_url must begin with http:// or https://, not {redact(endpoint)!r}")
        if endpoint is not None and redact(endpoint) != endpoint:
            raise UsageError("endpoint_url must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if self.anonymous and self.profile is not None:
            raise UsageError("anonymous and profile exclude each other")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes and `from_json` gives back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StorageOptions:
        """Undoes `to_json`. Raises UsageError for names it does not know."""
        unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UsageError(f"unknown storage option: {', '.join(sorted(unknown))}")
        return cls(**fields)


@dataclass(frozen=True)
class Entry:
    """An object, unread.

    size: in bytes, None where unknown. version: changes when the content does (an ETag, or size and
    modification time) and is the same however often it is asked for; "" where unknown.
    """

    uri: str
    size: int | None
    version: str

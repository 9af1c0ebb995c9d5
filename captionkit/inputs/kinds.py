"""What a file is by its name: an image, a shard, a list, bookkeeping; and the one line of a listing."""

from __future__ import annotations

import posixpath
from collections import Counter
from typing import Any, Literal, NamedTuple

from captionkit.counting import counted
from captionkit.storage import SHARD_SUFFIXES, public_uri

_SUFFIXES = (
    ".jpg .jpeg .jpe .jif .jfif .jfi .png .apng .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .jph .jhc .avif .avifs .heic .heif .mpo .dib .pcx .sgi .psd .jxl"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
REFUSED_SUFFIXES = {
    ".7z": "a 7-Zip archive",
    ".rar": "a RAR archive",
    ".arrow": "an Arrow file",
    ".feather": "an Arrow file",
    ".lance": "a Lance file",
}
"""What holds images and is not read; named as an input it is refused."""
KEY_COLUMN = "__key__"
"""WebDataset's name for what the members of one sample share; can be carried."""
TEXT_COLUMNS = ("txt", "json", "caption")
"""Members of a sample that can be carried, as text, by their suffixes: what a shard says of its images already."""


class InputItem(NamedTuple):
    """One line of the manifest before it is numbered: an image, or a container of images."""

    uri: str
    """The address to read, with its credentials if it has any. Never to be stored or shown: see `name`."""
    version: str
    size: int | None
    kind: Literal["image", "tar", "parquet"] = "image"
    row_groups: tuple[int, ...] = ()
    """Rows of each row group of a Parquet file."""
    carried: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    broken: bool = False
    """A Parquet file that cannot be opened."""

    @property
    def name(self) -> str:
        """What it is called in the table: its address without passwords and signatures, so that an address that was
        signed again is the same image."""
        return public_uri(self.uri)


_BOOKKEEPING = frozenset(
    ["readme", "license", "licence", "copying", "notice", "authors", "changelog", "makefile", "dockerfile"]
)


def is_bookkeeping(uri: str) -> bool:
    """Whether a file is what tools and people leave beside data: Spark's `_SUCCESS`, `_metadata` and `x_$folder$`,
    Delta's log, a README. An image or a shard by its suffix never is."""
    name = posixpath.basename(uri).lower()
    suffix = suffix_of(uri)
    if suffix in IMAGE_SUFFIXES or suffix in SHARD_SUFFIXES:
        return False
    return (
        name.startswith("_")
        or name.endswith("_$folder$")
        or name in _BOOKKEEPING
        or "/_delta_log/" in uri
        or "/_temporary/" in uri
    )


def passed_over(files: Counter[str]) -> str:
    """`3 files: 2 × .txt, 1 × .json`, the most common first."""
    kinds = ", ".join(f"{n:,} × {suffix}" for suffix, n in files.most_common())
    return f"{counted(files.total(), 'file')}: {kinds}"


def without_query(uri: str) -> str:
    """An address as it is, a web address without its query."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def suffix_of(uri: str) -> str:
    """The suffix of an address, lower case, with its dot; of `.tar.gz` both; of a URL without its query."""
    name = posixpath.basename(without_query(uri)).lower()
    stem, suffix = posixpath.splitext(name)
    return f".tar{suffix}" if stem.endswith(".tar") and f".tar{suffix}" in SHARD_SUFFIXES else suffix

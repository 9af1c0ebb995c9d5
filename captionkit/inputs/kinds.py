"""What a file is by its name: an image, a shard, a list, bookkeeping; and the one line of a listing."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from captionkit.counting import counted
from captionkit.images import Limits
from captionkit.inputs.options import KEY_COLUMN
from captionkit.storage import SHARD_SUFFIXES, page_of, public_uri

_SUFFIXES = (
    ".jpg .jpeg .jpe .jif .jfif .jfi .png .apng .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .jph .jhc .avif .avifs .heic .heif .hif .mpo .dib .pcx .sgi .psd .psb .jxl .svg .dcm .dicom "
    # Camera raws.
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 "
    ".srf .srw .x3f"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
DOCUMENT_SUFFIXES = frozenset([".pdf"])
"""What is read as an image where it is named, and passed over in folders and shards: few documents are pictures."""
REFUSED_SUFFIXES = {
    ".7z": "a 7-Zip archive",
    ".rar": "a RAR archive",
    ".arrow": "an Arrow file",
    ".feather": "an Arrow file",
    ".lance": "a Lance file",
}
"""What holds images and is not read; named as an input it is refused."""
TEXT_COLUMNS = ("txt", "json", "caption")
"""Members of a sample that can be carried, as text, by their suffixes: what a shard says of its images already."""
JSON_FIELD = "json."
"""What a carried column begins with that is a field of a sample's JSON."""


def is_of_samples(column: str) -> bool:
    """Whether a carried column can be told of images in shards."""
    return column == KEY_COLUMN or column in TEXT_COLUMNS or column.startswith(JSON_FIELD)


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


_HASH = re.compile(r"[0-9a-f]{32}(-\d{1,5})?")
"""S3's ETags that are made of contents: MD5, or MD5 of the parts' MD5 with their number."""


_AMAZON = re.compile(r"https?://([^/]*\.)?s3[.-][a-z0-9.-]*amazonaws\.com(\.cn)?/", re.IGNORECASE)
"""Web addresses of objects in Amazon's S3, signed ones among them."""


def content_key(item: InputItem) -> str | None:
    """What images of the same bytes have in common, as far as a listing tells; None where it does not.

    Other servers' ETags, strong ones too, may be made of a file's size and time, which two files may share (RFC 9110,
    8.8.3: they tell versions of one resource apart): Starlette's look like S3's and are the MD5 of these two.
    """
    is_s3 = item.uri.startswith(("s3://", "s3a://")) or _AMAZON.match(item.uri) is not None
    if item.kind != "image" or item.size is None or not is_s3:
        return None
    return f"{item.version} {item.size}" if _HASH.fullmatch(item.version) else None


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


ODD_TEXTS = {
    "not_utf8": "not in UTF-8 (what could not be read is �)",
    "not_json": "no JSON object (none of its fields is carried)",
    "too_long": "longer than 1 MiB (not carried)",
}
"""What texts can be that shards hold for their images, beside what they should be."""


def odd_texts(counts: Mapping[str, int]) -> str:
    """`texts of shards: 2 not in UTF-8 (…), 1 longer than 1 MiB (…)`."""
    return "texts of shards: " + ", ".join(
        f"{counts[kind]:,} {text}" for kind, text in ODD_TEXTS.items() if kind in counts
    )


def without_query(uri: str) -> str:
    """An address as it is, a web address without its query."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def suffix_of(uri: str) -> str:
    """The suffix of an address, lower case, with its dot; of `.tar.gz` both; of a URL without its query."""
    path = without_query(uri)
    name = path[path.rfind("/") + 1 :].lower()
    # As posixpath.splitext has it, without its calls: this is asked of every line of a listing.
    dot = name.rfind(".")
    if dot <= 0 or not name[:dot].strip("."):
        return ""
    stem, suffix = name[:dot], name[dot:]
    return f".tar{suffix}" if stem.endswith(".tar") and f".tar{suffix}" in SHARD_SUFFIXES else suffix


def limits_of(address: str, limits: Limits, frame: str = "") -> Limits:
    """The limits for an image at this address, with the frame to look at: that of a page's address, else `frame`, else
    the limits' own. `each` is the first: what has several then has an address for each."""
    page = page_of(address)
    if page is None and not frame:
        return limits
    return replace(limits, frame=page - 1 if page is not None else "first" if frame == "each" else frame)

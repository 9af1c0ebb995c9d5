"""Addresses as strings: schemes, members of archives, patterns. Nothing here touches storage.

An address is spelled as its storage spells it: no URL quoting, so a space is a space and `%20` three characters
(http addresses are URLs already; file URLs, as `Path.as_uri()` and Spark write them, become paths). Only what follows
the suffix of a container and a `#` is a member (`a.tar#1.jpg`), or what follows that of a file of pages and a `#page=`
(`scan.tif#page=3`, of a member too); any other `#` belongs to the name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

from captionkit.errors import UsageError
from captionkit.storage.errors import AddressError, redact

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*)://")
_CHAIN = re.compile(r"[a-z][a-z0-9+.\-]*::([a-z0-9+.\-]+://|/)")
SHARD_SUFFIXES = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".zip",
)  # fmt: skip
"""How shards are called. What one is, and how it is compressed, is seen from its first bytes."""
CONTAINER_NAME = f"(?:{'|'.join(re.escape(suffix) for suffix in (*SHARD_SUFFIXES, '.parquet'))})"
"""A regular expression of the suffixes of containers."""
_MEMBER = re.compile(f"{CONTAINER_NAME}#", re.IGNORECASE)
_WEB_MEMBER = re.compile(rf"{CONTAINER_NAME}(?:\?[^#]*)?#", re.IGNORECASE)
PAGED_SUFFIXES = (".tif", ".tiff", ".gif", ".webp", ".apng", ".avif", ".avifs", ".pdf", ".dcm", ".dicom")
"""How files are called of which a page or frame can have an address of its own, such as `scan.tif#page=3`."""
PAGE = rf"(?:{'|'.join(re.escape(suffix) for suffix in PAGED_SUFFIXES)})(?:\?[^#]*)?#page=[1-9][0-9]*$"
"""A regular expression of how the address of a page ends."""
_PAGE = re.compile(PAGE, re.IGNORECASE)
_FILE_URL = re.compile(r"(?:file|local):(?://(?:localhost)?(?=/)|(?=/(?!/)))", re.IGNORECASE)
_BRACES = re.compile(r"\{(?:(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([^{}]*,[^{}]*))\}")
MAX_EXPANDED = 10_000_000
"""Addresses that one pair of braces may stand for."""
_NORMAL = re.compile(r"(?!(?:file|local):)[a-z][a-z0-9+.\-]*://[^#\ud800-\udfff]*(?<!/)")
"""Addresses, most of those in object storage, that are spelled as `normalize` spells them."""
_HIDDEN = re.compile(r"(?:^|/)\.(?!\.?(?:/|$))")  # `.` and `..` can be names in object storage: odd, not hidden
_MAGIC = re.compile(r"[*?\[]")


def spelled(text: str) -> str:
    """The text as Arrow and JSON can hold it: what is not Unicode (names of files are bytes) comes out escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_scheme(address: str) -> tuple[str, str]:
    """("s3", "bucket/key") for s3://bucket/key; ("", path) for local paths and file:// addresses."""
    match = _SCHEME.match(address)
    if match is None:
        return "", address
    scheme = match[1].lower()
    rest = address[match.end() :]
    return ("", rest) if scheme in ("file", "local") else (scheme, rest)


def page_of(address: str) -> int | None:
    """3 for …/scan.tif#page=3, counted from 1; None for what is no page of a file."""
    at = address.rfind("#page=")
    return int(address[at + len("#page=") :]) if at >= 0 and _PAGE.search(address) else None


def without_page(address: str) -> str:
    """The address of the file of which this is a page; itself for anything else."""
    return address if page_of(address) is None else address[: address.rfind("#page=")]


def has_pages(address: str) -> bool:
    """Whether a file may have pages or frames with addresses of their own, by its name."""
    web = address[:8].lower().startswith(("http://", "https://"))
    return (address.partition("?")[0] if web else address).lower().endswith(PAGED_SUFFIXES)


def is_parquet(address: str) -> bool:
    """Whether a file is a Parquet file by its name."""
    web = address[:8].lower().startswith(("http://", "https://"))
    return (address.partition("?")[0] if web else address).lower().endswith(".parquet")


def split_member(address: str) -> tuple[str, str | None]:
    """("…/a.tar", "member/name.jpg") for …/a.tar#member/name.jpg; ("…/scan.tif", "page=3") for …/scan.tif#page=3;
    (address, None) for anything else."""
    # Of a web address the query stands before the member: https://host/a.tar?download=true#member/name.jpg
    web = address[:8].lower().startswith(("http://", "https://"))
    match = (_WEB_MEMBER if web else _MEMBER).search(address)
    if match is None:
        base = without_page(address)
        return (address, None) if base == address else (base, address[len(base) + 1 :])
    return address[: match.end() - 1], address[match.end() :]


def join_member(base: str, member: str) -> str:
    """The address of a member. Undone by `split_member`. Raises UsageError where it could not be."""
    address = f"{base}#{member}"
    if split_member(address) != (base, member):
        raise AddressError(f"{redact(base)} is not a {', '.join(SHARD_SUFFIXES)} or .parquet address")
    return address


def normalize(address: str) -> str:
    """The one spelling of an address: local paths absolute and without file://, folders without a slash at the end.

    On the web a slash at the end is part of the address and stays. Raises UsageError for what cannot be an address.
    """
    if _NORMAL.fullmatch(address):
        return address
    base, member = split_member(_without_file_url(spelled(address)))
    scheme, rest = split_scheme(base)
    if scheme in ("http", "https"):
        base = f"{scheme}://{rest}"
    elif scheme:
        base = f"{scheme}://{rest.rstrip('/')}"
    else:
        if _CHAIN.match(base):
            raise AddressError(f"chained fsspec addresses are not supported: {redact(base)}")
        if not rest:
            raise AddressError("an address must not be empty")
        base = os.path.abspath(os.path.expanduser(rest))
    return base if member is None else f"{base}#{member}"


def _without_file_url(address: str) -> str:
    """file:///a%20b, file://localhost/a%20b and file:/a%20b → /a b. A file that has the very name with its per cent
    signs is meant literally."""
    match = _FILE_URL.match(address)
    if match is None:
        return address
    path = "/" + address[match.end() :].lstrip("/")
    return path if "%" not in path or os.path.lexists(path) else spelled(unquote(path))


def expand_braces(address: str) -> Iterator[str]:
    """The addresses that braces stand for, as in a shell and WebDataset: `{00000..00127}`, `{0..9..3}`, `{a,b}`.

    Numbers are padded with zeros to the longer bound where one begins with a zero. Raises UsageError for a range of
    more than `MAX_EXPANDED` numbers.
    """
    match = _BRACES.search(address)
    if match is None:
        yield address
        return
    first, last, step, words = match.groups()
    parts: Iterator[str] = iter(words.split(",")) if words is not None else _numbers(first, last, step)
    for part in parts:
        yield from expand_braces(address[: match.start()] + part + address[match.end() :])


def _numbers(first: str, last: str, step: str | None) -> Iterator[str]:
    low, high, by = int(first), int(last), abs(int(step or 1)) or 1
    if abs(high - low) // by >= MAX_EXPANDED:
        raise UsageError(f"{{{first}..{last}}} stands for more than {MAX_EXPANDED:,} addresses; name fewer")
    padded = any(len(number.lstrip("-")) > 1 and number.lstrip("-").startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(low, high + 1, by) if low <= high else range(low, high - 1, -by)
    return (f"{number:0{width}d}" if width else str(number) for number in numbers)


def join(base: str, *parts: str) -> str:
    """The address of something below a folder; parts may hold slashes themselves."""
    root = base if base.endswith("://") else base.rstrip("/") or "/"
    for part in parts:
        name = part.strip("/")
        if name:
            root = root + name if root.endswith("/") else f"{root}/{name}"
    return root


def is_hidden(relative: str) -> bool:
    """Whether a name below a folder, or a folder on the way to it, begins with a dot."""
    return _HIDDEN.search(relative) is not None


def is_pattern(address: str) -> bool:
    """Whether an address has what `glob` takes for wildcards. Real names may have it too: all else takes it so."""
    return _MAGIC.search(address) is not None


def escape(name: str) -> str:
    """A pattern that this very name alone fits."""
    return _MAGIC.sub(lambda match: f"[{match[0]}]", name)


class Pattern:
    """`*` and `?` within a name, `[abc]`, `[a-z]`, `[!a-z]`, and `**` for any folders between.

    As in a shell, wildcards pass over names that begin with a dot unless the pattern has the dot itself.
    Raises UsageError for a pattern that makes no sense.
    """

    def __init__(self, pattern: str) -> None:
        magic = _MAGIC.search(pattern)
        self.literal = pattern[: magic.start()] if magic else pattern
        """What every match begins with; storage is listed from here."""
        *folders, last = parts = pattern.split("/")
        self._deep = parts.index("**") if "**" in parts else None
        between = "".join("(?:[^/.][^/]*/|/)*" if part == "**" else f"{_translate(part)}/" for part in folders)
        ending = "(?:[^/.][^/]*/|/)*[^/.][^/]*" if last == "**" else _translate(last)
        try:
            self._parts = [re.compile(_translate(part), re.DOTALL) for part in parts]
            self._whole = re.compile(between + ending, re.DOTALL)
        except re.error as error:
            raise UsageError(f"not a pattern: {redact(pattern)}: {error}") from error

    def matches(self, address: str) -> bool:
        """Whether the whole address fits."""
        return self._whole.fullmatch(address) is not None

    def may_hold(self, folder: str) -> bool:
        """Whether a match can lie below this folder, so that nobody walks where nothing is to be found."""
        names = folder.rstrip("/").split("/")
        if self._deep is None and len(names) >= len(self._parts):
            return False
        known = self._parts[: self._deep]
        return all(part.fullmatch(name) for part, name in zip(known, names, strict=False))


def _translate(part: str) -> str:
    """One name of a pattern → a regular expression that matches no slash."""
    out = "(?!\\.)" if part[:1] in ("*", "?", "[") else ""
    at = 0
    while at < len(part):
        letter = part[at]
        at += 1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif letter == "[" and (end := part.find("]", at + 1 + (part[at : at + 1] in ("!", "^")))) > 0:
            negated = part[at] in "!^"
            inside = part[at + negated : end].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
            # `^` first, and these doubled, would mean something to `re` that they do not mean in a shell.
            inside = re.sub(r"^\^|([-&|~])(?=\1)", lambda match: "\\" + match[0], inside)
            out += f"[{'^/' if negated else ''}{inside}]"
            at = end + 1
        else:
            out += re.escape(letter)
    return out

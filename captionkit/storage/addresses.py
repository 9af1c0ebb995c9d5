"""Addresses as strings: schemes, members of archives, patterns. Nothing here touches storage.

An address is spelled as its storage spells it: no URL quoting, so a space is a space and `%20` three characters
(http addresses are URLs already). Only what follows `.tar#`, `.tar.gz#`, `.tgz#` or `.parquet#` is a member;
any other `#` belongs to the name.
"""

from __future__ import annotations

import os
import re

from captionkit.storage.errors import AddressError, UsageError, redact

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*)://")
_CHAIN = re.compile(r"[a-z][a-z0-9+.\-]*::([a-z0-9+.\-]+://|/)")
_MEMBER = re.compile(r"(\.tar|\.tar\.gz|\.tgz|\.parquet)#", re.IGNORECASE)
_WEB_MEMBER = re.compile(r"(\.tar|\.tar\.gz|\.tgz|\.parquet)(?:\?[^#]*)?#", re.IGNORECASE)
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


def split_member(address: str) -> tuple[str, str | None]:
    """("…/a.tar", "member/name.jpg") for …/a.tar#member/name.jpg; (address, None) for anything else."""
    # Of a web address the query stands before the member: https://host/a.tar?download=true#member/name.jpg
    web = address[:8].lower().startswith(("http://", "https://"))
    match = (_WEB_MEMBER if web else _MEMBER).search(address)
    if match is None:
        return address, None
    return address[: match.end() - 1], address[match.end() :]


def join_member(base: str, member: str) -> str:
    """The address of a member. Undone by `split_member`. Raises UsageError where it could not be."""
    address = f"{base}#{member}"
    if split_member(address) != (base, member):
        raise AddressError(f"{redact(base)} is not a .tar, .tar.gz, .tgz or .parquet address")
    return address


def normalize(address: str) -> str:
    """The one spelling of an address: local paths absolute and without file://, the rest as it is.

    Raises UsageError for what cannot be an address.
    """
    base, member = split_member(spelled(address))
    scheme, rest = split_scheme(base)
    if scheme:
        base = f"{scheme}://{rest}"
    else:
        if _CHAIN.match(base):
            raise AddressError(f"chained fsspec addresses are not supported: {redact(base)}")
        if not rest:
            raise AddressError("an address must not be empty")
        base = os.path.abspath(os.path.expanduser(rest))
    return base if member is None else f"{base}#{member}"


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

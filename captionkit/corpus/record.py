"""CaptionedImage, which a corpus yields; CaptionFragment, which its readers yield; and Report, which counts both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from captionkit.counting import counted
from captionkit.errors import UsageError

EXAMPLES = 3
"""Examples of each kind that a report keeps."""

LEFT_OUT = {
    "malformed": "not in the file's format",
    "nameless": "without an image name",
    "blank": "without a word",
    "repeated": "repeated under the same caption id of the same image",
    "unknown_image": "with an image id that the file does not declare",
    "image_missing": "whose image was not found",
    "image_ambiguous": "whose image name matches several files",
}
"""Why a caption was left out, by kind. The texts follow "1 caption" or "2 captions"."""

NOTED = {
    "mended": ("row", "whose columns had run together, repaired"),
    "shared_id": ("caption", "with the id of another caption of the same image"),
    "declared_twice": ("image", "declared twice; the first name and split are used, captions are joined"),
    "two_splits": ("image", "in two splits; the first is used"),
    "in_no_list": ("image", "in no split list"),
    "without_captions": ("image", "without captions"),
    "bad_image": ("image", "declared without an id or a file name"),
    "odd_name": ("image", "whose name has no image extension"),
    "twice_there": ("image", "found twice under one name; the first is used"),
    "restval": ("image", "of Karpathy's split restval, used as train"),
    "open_quote": ("row", "with a quote that is never closed, read as a single line"),
    "several_lines": ("caption", "over several lines"),
    "not_utf8": ("line", "not in UTF-8; what could not be decoded is �"),
    "byte_order_mark": ("file", "starting with a byte order mark"),
    "crlf": ("line", "with a Windows line end (CRLF)"),
}
"""Irregularities by which no caption is lost, by kind: the counted thing, and the text that follows the count."""

_SPLITS = {"training": "train", "dev": "val", "valid": "val", "validation": "val", "testing": "test"}


class CorpusError(UsageError):
    """A corpus that cannot be read as a whole. The message says which file, what is wrong and what to do."""


@dataclass(frozen=True)
class CaptionedImage:
    """One image and its captions."""

    image: str
    """Full address, as `captionkit.storage` reads it (members of a tar have one too)."""
    captions: tuple[str, ...]
    """One or more, none blank, in the file's order."""
    split: str | None
    """"train", "val", "test" or another name that the corpus has; None if it has none."""
    key: str
    """The corpus' own name of the image: a file name, or COCO's id."""


class ListMatch(NamedTuple):
    """How a split list matches the corpus."""

    names: int
    unknown: int
    """Names that are not in the corpus, of `names`."""
    examples: tuple[str, ...]
    """The first of them."""


class CaptionFragment(NamedTuple):
    """What a reader yields for a line or object: the declaration of an image (with `name`), captions, or both."""

    key: str
    """The image, as `CaptionedImage.key`; fragments with the same key are joined."""
    name: str | None = None
    """File name or address, if the fragment declares the image."""
    split: str | None = None
    captions: tuple[tuple[str, str], ...] = ()
    """Pairs of caption id ("" if there is none) and text."""


class Fit(NamedTuple):
    """How well a split list fits the corpus."""

    names: int
    unknown: int
    """Names that no image with captions has."""
    examples: tuple[str, ...]
    """The first of them."""


@dataclass
class Report:
    """Counts of what was read: every caption is either yielded, or left out for a reason.

    Complete after the last image; then `rows == captions + left_out.total()`. `str()` is the text for users.
    """

    sources: list[str] = field(default_factory=list)
    """Files and their formats."""
    rows: int = 0
    """Captions in the files, malformed ones included."""
    records: int = 0
    """Images yielded."""
    captions: int = 0
    """Captions yielded."""
    splits: Counter[str | None] = field(default_factory=Counter)
    """Images by split."""
    per_image: Counter[int] = field(default_factory=Counter)
    """Images by number of captions."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Captions that were not yielded, by kind of `LEFT_OUT`."""
    noted: Counter[str] = field(default_factory=Counter)
    """Irregularities, by kind of `NOTED`."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, Fit] = field(default_factory=dict)
    """Of each split that has a list."""
    checked: bool = False
    """Whether the images were looked up in a listing of the image folders."""

    def leave_out(self, kind: str, example: str, count: int = 1) -> None:
        """Count captions that are left out. Raises KeyError for a kind that is not in `LEFT_OUT`."""
        LEFT_OUT[kind]
        self.left_out[kind] += count
        self._keep(kind, example)

    def bad_row(self, kind: str, example: str) -> None:
        """Count a row without a usable caption."""
        self.rows += 1
        self.leave_out(kind, example)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """Count an irregularity. Raises KeyError for a kind that is not in `NOTED`."""
        NOTED[kind]
        self.noted[kind] += count
        self._keep(kind, example)

    def add(self, image: CaptionedImage) -> None:
        """Count an image that is yielded."""
        self.records += 1
        self.captions += len(image.captions)
        self.splits[image.split] += 1
        self.per_image[len(image.captions)] += 1

    def _keep(self, kind: str, example: str) -> None:
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(example if len(example) <= 100 else example[:99] + "…")

    def __str__(self) -> str:
        lines = list(self.sources)
        lines.append(
            f"  {counted(self.rows, 'caption')} read, {self.captions:,} kept, of {counted(self.records, 'image')}"
        )
        if self.per_image:
            each = ", ".join(f"{number}: {count:,}" for number, count in sorted(self.per_image.items()))
            lines.append(f"  images by number of captions: {each}")
            splits = sorted(self.splits.items(), key=lambda item: (-item[1], str(item[0])))
            lines.append("  images by split: " + ", ".join(f"{name or 'none'} {count:,}" for name, count in splits))
        for split, fit in self.lists.items():
            if fit.unknown:
                first = "; ".join(map(ascii_controls, fit.examples))
                names = f"{fit.unknown:,} of {counted(fit.names, 'name')}"
                lines.append(
                    f"  list of {split}: {names} {'is' if fit.unknown == 1 else 'are'} not in the corpus: first {first}"
                )
        if not self.checked:
            lines.append("  not looked up whether the images exist")
        left_out = {kind: ("caption", why) for kind, why in LEFT_OUT.items()}
        for title, kinds, counts in (("left out", left_out, self.left_out), ("noticed", NOTED, self.noted)):
            if counts:
                lines.append(f"  {title}:")
            for kind, count in counts.most_common():
                thing, what = kinds[kind]
                examples = "; ".join(ascii_controls(example) for example in self.examples[kind])
                lines.append(f"    {counted(count, thing)} {what}, such as: {examples}")
        return "\n".join(lines)


def split_name(name: object) -> str | None:
    """The usual name of a split ("dev", "valid" and "validation" are "val"); other names stay; None for a blank one."""
    text = str(name).strip() if name is not None else ""
    return _SPLITS.get(text.lower(), text.lower() if text.lower() in ("train", "val", "test") else text) or None


def id_text(value: int | float) -> str:
    """A numeric id as text. 3.0, as tables with missing values store it, becomes "3"."""
    return str(int(value)) if value == value and abs(value) < 2**63 and value == int(value) else str(value)


def ascii_controls(text: str) -> str:
    """The text on one line, with control characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

"""What every reader of this room gives: one record an image, and a report of what was met on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from captionkit.counting import counted
from captionkit.errors import UsageError

EXAMPLES = 3
"""How many examples of each quirk a report keeps."""

LEFT_OUT = {
    "malformed": "of another form than the file's",
    "nameless": "naming no image",
    "blank": "without a word",
    "repeated": "that the image has already, under the same caption id",
    "unknown_image": "of an image id that the file does not declare",
    "image_missing": "whose image is not there",
    "image_ambiguous": "whose image's name fits several files",
}
"""Why a caption is in no record; to be read behind "1 caption" and "2 captions" alike."""

NOTED = {
    "mended": ("row", "whose columns had run together, taken apart again"),
    "shared_id": ("caption", "under an id that another caption of the same image has"),
    "declared_twice": ("image", "declared twice; the first name and split count, captions are joined"),
    "two_splits": ("image", "in two splits; the first counts"),
    "in_no_list": ("image", "in no list of a split"),
    "without_captions": ("image", "without captions"),
    "bad_image": ("image", "declared without an id or a file name"),
    "odd_name": ("image", "whose name has no ending of an image's"),
    "twice_there": ("image", "there twice under one name; the first is taken"),
    "restval": ("image", "of Karpathy's split restval, taken as train"),
    "open_quote": ("row", "with a quote that is never closed, read as a line for itself"),
    "several_lines": ("caption", "written over several lines"),
    "not_utf8": ("line", "not in UTF-8; what could not be read is �"),
    "byte_order_mark": ("file", "beginning with a byte order mark"),
    "crlf": ("line", "ending as on Windows"),
}
"""What is worth a look though no caption is lost by it: of what there is one or several, and what is odd."""

_SPLITS = {"training": "train", "dev": "val", "valid": "val", "validation": "val", "testing": "test"}


class CorpusError(UsageError):
    """A corpus that cannot be understood as a whole. The message says which file, what is wrong and what to do."""


@dataclass(frozen=True)
class Record:
    """One image and what people said of it.

    image: a full address, as `captionkit.storage` reads it (a member of a tar has one too). captions: one or more,
    none blank, in the file's order. split: "train", "val", "test" or another word of the corpus; None where it has
    none. key: how the corpus itself calls the image (a file name, or COCO's id).
    """

    image: str
    captions: tuple[str, ...]
    split: str | None
    key: str


class Item(NamedTuple):
    """A piece of a corpus on its way to a record: it declares an image (`name`), or gives captions of one, or both.

    captions: pairs of caption id ("" where there is none) and text.
    """

    key: str
    name: str | None = None
    split: str | None = None
    captions: tuple[tuple[str, str], ...] = ()


class Fit(NamedTuple):
    """How the list of a split fits the corpus."""

    names: int
    unknown: int
    """Of those, the ones that no caption names."""
    examples: tuple[str, ...]
    """The first of these."""


@dataclass
class Report:
    """What was read: every caption is either in a record or left out for a reason.

    It is complete when the records have been read to the end; then
    `rows == captions + left_out.total()`. `str()` is the report for people.
    """

    sources: list[str] = field(default_factory=list)
    rows: int = 0
    """Captions met, those that could not be read included."""
    records: int = 0
    captions: int = 0
    """Captions in records."""
    splits: Counter[str | None] = field(default_factory=Counter)
    """Records by split."""
    per_image: Counter[int] = field(default_factory=Counter)
    """Records by number of captions."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Captions that are in no record, by the kinds of `LEFT_OUT`."""
    noted: Counter[str] = field(default_factory=Counter)
    """What else was met, by the kinds of `NOTED`."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, Fit] = field(default_factory=dict)
    """Of each split that has a list."""
    checked: bool = False
    """Whether the images were looked up in a listing."""

    def leave_out(self, kind: str, example: str, count: int = 1) -> None:
        """Count captions that go into no record. Raises KeyError for a kind that is not in `LEFT_OUT`."""
        LEFT_OUT[kind]
        self.left_out[kind] += count
        self._keep(kind, example)

    def bad_row(self, kind: str, example: str) -> None:
        """Count a row that gives no caption."""
        self.rows += 1
        self.leave_out(kind, example)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """Count something odd. Raises KeyError for a kind that is not in `NOTED`."""
        NOTED[kind]
        self.noted[kind] += count
        self._keep(kind, example)

    def add(self, record: Record) -> None:
        """Count a record."""
        self.records += 1
        self.captions += len(record.captions)
        self.splits[record.split] += 1
        self.per_image[len(record.captions)] += 1

    def _keep(self, kind: str, example: str) -> None:
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(example if len(example) <= 100 else example[:99] + "…")

    def __str__(self) -> str:
        lines = list(self.sources)
        lines.append(
            f"  {counted(self.rows, 'caption')} met, {self.captions:,} kept, of {counted(self.records, 'image')}"
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
            lines.append("  whether the images are there was not looked up")
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
    """The usual word for a split ("dev", "valid" and "validation" are "val"); other words stay; None for a blank."""
    text = str(name).strip() if name is not None else ""
    return _SPLITS.get(text.lower(), text.lower() if text.lower() in ("train", "val", "test") else text) or None


def id_text(value: int | float) -> str:
    """An id that is a number, as text: 3.0, as tables with gaps write it, is 3."""
    return str(int(value)) if value == value and abs(value) < 2**63 and value == int(value) else str(value)


def ascii_controls(text: str) -> str:
    """The text in one line, control characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

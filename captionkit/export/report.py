"""What an export did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from captionkit.counting import counted
from captionkit.export.options import LAKES

EXAMPLES = 5


@dataclass
class Report:
    """Counts of an export, and what could not be written."""

    format: str
    output: str
    dry_run: bool = False
    written: int = 0
    """Rows that are written; of a dry run, that would be."""
    files: int = 0
    """Files that they are in, copies of images left out."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that were chosen and are not written, by reason."""
    errors: Counter[str] = field(default_factory=Counter)
    """Rows, or whole shards, that could not be written, by kind."""
    examples: list[str] = field(default_factory=list)
    """Some of the errors, with addresses."""

    @property
    def ok(self) -> bool:
        return not self.errors

    def fail(self, kind: str, message: str, count: int = 1) -> None:
        """Count something that could not be written."""
        self.errors[kind] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(message)

    def to_json(self) -> dict[str, Any]:
        # Not `asdict`, which takes a Counter's items for what it counts.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def text(self) -> str:
        verb = "would be written" if self.dry_run else "written"
        where = f" to {self.output}" if self.output else " beside the images"
        what = "as" if self.format in LAKES else f"{counted(self.files, 'file')} as"
        first = f"{counted(self.written, 'row')} {verb}{where}, {what} {self.format}"
        return "\n".join([first, *self.details()])

    def details(self) -> list[str]:
        """Lines of what was left out, and of what could not be written."""
        lines = [f"left out: {count:,} × {reason}" for reason, count in self.left_out.most_common()]
        lines += [f"could not be written: {count:,} × {kind}" for kind, count in self.errors.most_common()]
        lines += [f"  {example}" for example in self.examples]
        return lines

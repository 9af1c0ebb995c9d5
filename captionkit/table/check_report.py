"""What `check` finds, as data and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from captionkit.counting import counted
from captionkit.storage import redact

EXAMPLES = 5

MEANINGS = {
    "unreadable": "table files cannot be read: move them elsewhere, and the next run captions what is missing",
    "schema": "table files have other columns than the caption table",
    "rules": "rows are neither a caption nor a failure with its kind",
    "footers": "table files whose footer counts another number of rows of a shard than they hold",
    "duplicates": "rows too many, of addresses that have one already: `captionkit compact` takes them out",
    "replaced": "files that `captionkit compact` had merged when it died: the same command again deletes them",
    "models": "models or search options in one table, though no run asked for --mixed",
    "missing": "inputs have no row: the same `captionkit caption` command does what is missing",
    "unfinished": "shards and Parquet files are not in the table to their end: the same",
    "members": "images in shards and Parquet files have no row. Of a file that the table has whole, the same "
    "command makes none: caption that file into another --output",
    "coverage": "inputs could not be listed, so that nobody can tell what of them is missing",
    "changed": "inputs have changed since they were captioned; the next run captions them anew",
    "extra": "rows of addresses that are no longer among the inputs",
    "blank": "rows of lists without an address",
    "lists": "things about lists are worth knowing",
    "passed_over": "files and members of shards are passed over, as no images or as another --format's",
    "writing": "run is writing to the table at this moment; check again when it has ended",
}
"""What each finding is about, as the end of a sentence that begins with their number."""

MEANINGS_OF_ONE = {
    "unreadable": "table file cannot be read: move it elsewhere, and the next run captions what is missing",
    "schema": "table file has other columns than the caption table",
    "rules": "row is neither a caption nor a failure with its kind",
    "footers": "table file whose footer counts another number of rows of a shard than it holds",
    "duplicates": "row too many, of an address that has one already: `captionkit compact` takes it out",
    "replaced": "file that `captionkit compact` had merged when it died: the same command again deletes it",
    "missing": "input has no row: the same `captionkit caption` command does what is missing",
    "unfinished": "shard or Parquet file is not in the table to its end: the same",
    "members": "image in a shard or Parquet file has no row. Of a file that the table has whole, the same "
    "command makes none: caption that file into another --output",
    "coverage": "input could not be listed, so that nobody can tell what of it is missing",
    "changed": "input has changed since it was captioned; the next run captions it anew",
    "extra": "row of an address that is no longer among the inputs",
    "blank": "row of a list without an address",
    "lists": "thing about a list is worth knowing",
    "passed_over": "file or member of a shard is passed over, as no image or as another --format's",
}
"""The same where that number is one."""


@dataclass
class Finding:
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, examples: tuple[str, ...], count: int) -> None:
        self.count += count
        self.examples += map(redact, examples[: EXAMPLES - len(self.examples)])


@dataclass
class CheckReport:
    """What `check` found."""

    table: str
    files: int = 0
    rows: int = 0
    captioned: int = 0
    failed: int = 0
    models: list[str] = field(default_factory=list)
    listed: int | None = None
    """Images, shards and Parquet files among the inputs; None where these were not listed."""
    problems: dict[str, Finding] = field(default_factory=dict)
    """What breaks the promise, by the keys of `MEANINGS`."""
    notes: dict[str, Finding] = field(default_factory=dict)
    """What does not, and is worth knowing."""

    def problem(self, name: str, *examples: str, count: int = 1) -> None:
        """Count something that breaks the promise."""
        self.problems.setdefault(name, Finding()).add(examples, count)

    def note(self, name: str, *examples: str, count: int = 1) -> None:
        """Count something worth knowing."""
        self.notes.setdefault(name, Finding()).add(examples, count)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: the fields, the verdict as `ok`, and what each finding means."""
        fields = {"ok": self.ok, **asdict(self)}
        for finding in (fields["problems"], fields["notes"]):
            for name in finding:
                finding[name]["means"] = MEANINGS[name]
        return fields

    def text(self) -> str:
        """For a person: what was found, and the verdict last."""
        rows = f"{counted(self.rows, 'row')}: {self.captioned:,} captioned, {self.failed:,} failed"
        lines = [f"{self.table}: {counted(self.files, 'file')}, {rows}"]
        for kind, findings in (("note", self.notes), ("problem", self.problems)):
            for name, finding in findings.items():
                means = MEANINGS_OF_ONE.get(name, MEANINGS[name]) if finding.count == 1 else MEANINGS[name]
                lines.append(f"{kind}: {finding.count:,} {means}")
                lines += [f"  {example}" for example in finding.examples]
        if not self.ok:
            lines.append("not ok")
        elif self.listed is None:
            lines.append("ok: the table is sound; its inputs were not listed")
        else:
            lines.append(
                f"ok: {counted(self.listed, 'input')} listed, and each has exactly one row (a shard, all of its)"
            )
        return "\n".join(lines)

"""What failed in a caption table: by kind, by reason and by folder, with examples. And which rows to take again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids
from captionkit.schema import ERROR_KINDS, FAILED
from captionkit.storage import Storage, public_uri, without_page
from captionkit.table.runs import no_table
from captionkit.table.table import CaptionTable, TableFile, container_of

FOLDERS = 20_000
"""Folders counted at once; of more, those with few failures are forgotten."""
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass
class Group:
    """Rows that failed for one kind of reason."""

    kind: str
    count: int = 0
    share: float = 0.0
    """Of all rows of the table."""
    reasons: dict[str, int] = field(default_factory=dict)
    """The commonest messages, addresses taken out of them and numbers replaced by N, with how often they came."""
    folders: dict[str, int] = field(default_factory=dict)
    """The folders and shards with most of them."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """`uri` and `error` of some, one of each reason before a second of any."""


@dataclass
class Failures:
    """What failed in a table."""

    table: str
    rows: int
    failed: int
    groups: list[Group]
    """The largest first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """For a person, some lines for each kind."""
        share = self.failed / max(1, self.rows)
        lines = [f"{self.table}: {self.failed:,} of {counted(self.rows, 'row')} failed ({share:.2%})"]
        for group in self.groups:
            lines += ["", f"{group.count:,} × {group.kind} ({group.share:.2%} of all rows)"]
            if len(group.reasons) > 1:
                lines += [f"  {count:,} × {reason}" for reason, count in group.reasons.items()]
            if group.folders:
                lines += ["  most in:", *(f"    {count:,} × {folder}" for folder, count in group.folders.items())]
            lines.append("  for example:")
            for example in group.examples:
                lines += [f"    {example['uri']}", f"      {example['error']}"]
        if self.failed:
            lines += ["", "`captionkit caption --retry-failed` with the options of the run takes these again."]
        return "\n".join(lines)


class _Tally:
    """One group as it is counted."""

    def __init__(self, examples: int) -> None:
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.folders: Counter[str] = Counter()
        self.samples: dict[str, list[dict[str, str]]] = {}
        self.examples = examples

    def add(self, uri: str, error: str) -> None:
        self.count += 1
        reason = _NUMBER.sub("N", error.replace(uri, "").lstrip(": "))
        self.reasons[reason] += 1
        self.folders[_folder(uri)] += 1
        for counter in (self.reasons, self.folders):
            if len(counter) > FOLDERS:
                kept = counter.most_common(FOLDERS // 2)
                counter.clear()
                counter.update(dict(kept))
        if reason in self.samples or len(self.samples) < 100:
            samples = self.samples.setdefault(reason, [])
            if len(samples) < self.examples:
                samples.append({"uri": uri, "error": error})

    def group(self, kind: str, rows: int) -> Group:
        reasons = dict(self.reasons.most_common(self.examples))
        order = sorted(self.samples, key=lambda reason: -self.reasons[reason])
        chosen = [self.samples[reason][turn : turn + 1] for turn in range(self.examples) for reason in order]
        folders = {folder: count for folder, count in self.folders.most_common(self.examples) if count > 1}
        examples = [example for group in chosen for example in group][: self.examples]
        return Group(kind, self.count, self.count / max(1, rows), reasons, folders, examples)


def failures(output: str, storage: Storage, *, examples: int = 5) -> Failures:
    """Group the failed rows of a table by kind. Streams; memory does not grow with the table.

    Args:
        examples: How many examples, reasons and folders of each kind to give.

    Raises:
        UsageError: there is no table.
    """
    table = CaptionTable(output, storage)
    if not table.files:
        raise no_table(table.uri, storage)
    tallies: dict[str, _Tally] = {}
    for _, batch in table.batches(["uri", "status", "error_kind", "error"]):
        for row in batch.filter(pc.equal(batch["status"], FAILED)).to_pylist():
            kind = row["error_kind"] or "unknown"
            tallies.setdefault(kind, _Tally(examples)).add(row["uri"], row["error"] or "")
    groups = [tally.group(kind, len(table)) for kind, tally in tallies.items()]
    groups.sort(key=lambda group: (-group.count, group.kind))
    return Failures(public_uri(table.uri), len(table), sum(group.count for group in groups), groups)


def failed_rows(table: CaptionTable, kinds: Collection[str] = ()) -> Iterator[tuple[TableFile, Ids]]:
    """The failed rows of a table, as `CaptionTable.drop` takes them: dropped, they are missing, and so come again.

    Args:
        kinds: Of these kinds only; of all where empty.

    Raises:
        UsageError: a kind that there is not.
    """
    unknown = sorted(set(kinds) - set(ERROR_KINDS))
    if unknown:
        raise UsageError(f"no kind of failure is called {' '.join(unknown)}; there are: {', '.join(ERROR_KINDS)}")
    for file in list(table.files):
        batches = []
        for _, batch in table.batches(["image_id", "status", "error_kind"], [file]):
            chosen = pc.equal(batch["status"], FAILED)
            if kinds:
                chosen = pc.and_(chosen, pc.is_in(batch["error_kind"], pa.array(sorted(kinds), pa.string())))
            batches.append(batch.filter(chosen)["image_id"].to_numpy())
        ids = np.unique(np.concatenate([*batches, np.empty(0, np.int64)]))
        if len(ids):
            yield file, ids


def _folder(uri: str) -> str:
    """The shard or file of images that a row's address lies in; of a plain image, its folder."""
    file = without_page(uri)
    base = container_of(file)
    return base if base != file else file.rpartition("/")[0] + "/"

"""Commands about tables and runs: before, meanwhile, and the morning after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro

from captionkit.cli.exit_codes import BROKEN, OK
from captionkit.cli.options import parse
from captionkit.storage.options import StorageOptions

if TYPE_CHECKING:
    from captionkit.plan.options import PlanOptions


@dataclass(frozen=True)
class CheckOptions:
    """Prove a caption table: every input has its row, none has two, every file can be read, one model made it."""

    output: tyro.conf.Positional[str]
    """Address of the caption table."""
    coverage: bool = True
    """List the inputs anew and hold the table against them."""
    input: tuple[str, ...] = ()
    """Inputs to hold it against: what you meant to caption. Default: what the run records name."""
    members: bool = False
    """Look into shards for a row of each image. Reads their headers; packed shards it reads whole."""
    every_column: bool = False
    """Read all columns, to be sure that all are readable."""
    json: bool = False
    """JSON, for programs."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


@dataclass(frozen=True)
class FailuresOptions:
    """Group what failed, with reasons, places and examples."""

    output: tyro.conf.Positional[str]
    """Address of the caption table."""
    examples: int = 5
    """Examples of each kind."""
    json: bool = False
    """JSON, for programs."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


@dataclass(frozen=True)
class CompactOptions:
    """Put small table files together into large ones, without ever losing a row. Best when nobody reads."""

    output: tyro.conf.Positional[str]
    """Address of the caption table."""
    target_rows: int = 500_000
    """Rows of a file."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


@dataclass(frozen=True)
class StatusOptions:
    """Say how far a caption job is, from anywhere: what its run record tells."""

    output: tyro.conf.Positional[str]
    """Address of the caption table."""
    all: bool = False
    """All runs, not only the latest (of each `--share`)."""
    json: bool = False
    """JSON lines, for programs."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


def status(args: Sequence[str]) -> int:
    """`captionkit status`; the exit code."""
    options = parse(StatusOptions, "status", args)
    from captionkit.storage import Storage
    from captionkit.table.status import newest, read_status

    runs = read_status(options.output, Storage(options.storage))
    for run in runs if options.all else newest(runs):
        print(json.dumps(run.record | {"state": run.state, "age_seconds": round(run.age)}) if options.json else run)
    return OK


def plan(args: Sequence[str]) -> int:
    """`captionkit plan`; the exit code."""
    from captionkit.plan.options import PlanOptions, check_plan

    options = parse(PlanOptions, "plan", args)
    from captionkit.storage import Storage

    check_plan(options, Storage(options.storage))
    return show_plan(options)


def show_plan(options: PlanOptions) -> int:
    """Make a plan and print it; the exit code. A caption job's `--dry-run` ends here too."""
    from captionkit.plan.plan import make_plan
    from captionkit.progress import Meter

    with Meter("listing", "inputs") as meter:
        plan = make_plan(options, meter.update)
    print(json.dumps(plan.to_json()) if options.budget.json else plan)
    return OK


def check(args: Sequence[str]) -> int:
    """`captionkit check`; the exit code."""
    options = parse(CheckOptions, "check", args)
    from captionkit.progress import Meter
    from captionkit.storage import Storage
    from captionkit.table.check import check as look

    with Meter("checking", "rows") as meter:
        report = look(
            options.output,
            Storage(options.storage),
            coverage=options.coverage,
            inputs=options.input,
            members=options.members,
            every_column=options.every_column,
            progress=meter.update,
        )
    print(json.dumps(report.to_json()) if options.json else report.text())
    return OK if report.ok else BROKEN


def failures(args: Sequence[str]) -> int:
    """`captionkit failures`; the exit code."""
    options = parse(FailuresOptions, "failures", args)
    from captionkit.storage import Storage
    from captionkit.table.failures import failures as group

    groups = group(options.output, Storage(options.storage), examples=options.examples)
    print(json.dumps(groups.to_json()) if options.json else groups.text())
    return OK


def compact(args: Sequence[str]) -> int:
    """`captionkit compact`; the exit code."""
    options = parse(CompactOptions, "compact", args)
    from captionkit.storage import Storage
    from captionkit.table.compact import compact as merge

    print(merge(options.output, Storage(options.storage), target_rows=options.target_rows).text())
    return OK

"""Captions into the forms of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from captionkit.cli.exit_codes import BROKEN, OK
from captionkit.cli.options import parse


@dataclass(frozen=True)
class UndoOptions:
    """Put files back as they were before `captionkit export --in-place`. What was changed since is left alone."""

    file: tyro.conf.Positional[str]
    """The undo file that --in-place named."""
    dry_run: bool = False
    """Change nothing; count."""


def export(args: Sequence[str]) -> int:
    """`captionkit export`; the exit code."""
    from captionkit.export.options import ExportOptions

    options = parse(ExportOptions, "export", args)
    from captionkit.export.job import export as write
    from captionkit.progress import Meter, log_line
    from captionkit.storage import Storage

    with Meter("exporting", "rows") as meter:
        report = write(options, Storage(options.storage), progress=meter.update, log=log_line)
    print(json.dumps(report.to_json()) if options.json else report.text())
    return OK if report.ok else BROKEN


def undo(args: Sequence[str]) -> int:
    """`captionkit undo`; the exit code."""
    options = parse(UndoOptions, "undo", args)
    from captionkit.export.undo import undo as put_back
    from captionkit.storage import Storage

    report = put_back(options.file, Storage(), dry_run=options.dry_run)
    print(report.text())
    return OK if report.ok else BROKEN

"""Captions into the forms of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from captionkit.cli.exit_codes import BROKEN, OK
from captionkit.cli.options import parse


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

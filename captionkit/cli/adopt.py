"""The command that makes a bundle of a captioner that somebody has already."""

from __future__ import annotations

from collections.abc import Sequence

from captionkit.adopt.options import AdoptOptions
from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse


def adopt(args: Sequence[str]) -> int:
    """`captionkit adopt`; the exit code."""
    options = parse(AdoptOptions, "adopt", args)
    from captionkit.adopt.job import adopt as make_bundle  # brings torch along, which --help can do without
    from captionkit.progress import log_line

    make_bundle(options, log_line)
    log_line(f"bundle: {options.output}")
    return OK

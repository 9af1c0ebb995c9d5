"""The command that writes a captioner in the form of other programs."""

from __future__ import annotations

from collections.abc import Sequence

from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse
from captionkit.convert.options import ConvertOptions


def convert(args: Sequence[str]) -> int:
    """`captionkit convert`; the exit code."""
    options = parse(ConvertOptions, "convert", args)
    from captionkit.model.bundle_files import check_bundle
    from captionkit.progress import log_line
    from captionkit.storage import Storage, public_uri

    check_bundle(options.bundle, Storage(options.storage))
    from captionkit.convert.job import convert as write  # brings torch along, which --help can do without

    write(options, log_line)
    log_line(f"written: {public_uri(options.output)}")
    return OK

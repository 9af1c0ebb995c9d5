"""Looking through captions and deciding about them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse
from captionkit.counting import counted

if TYPE_CHECKING:
    from captionkit.review.options import ReviewOptions


def review(args: Sequence[str]) -> int:
    """`captionkit review`; the exit code."""
    from captionkit.review.options import ReviewOptions

    options = parse(ReviewOptions, "review", args)
    from captionkit.progress import log_line
    from captionkit.review.job import write_page
    from captionkit.storage import Storage

    if not options.output:
        return serve(options)
    count = write_page(options, Storage(options.storage))
    log_line(f"page: {options.output}, {counted(count, 'row')}")
    return OK


def serve(options: ReviewOptions, *, editing: bool = True) -> int:
    """Serve a page until Ctrl-C or SIGTERM, which are its usual end."""
    from captionkit.progress import log_line
    from captionkit.review.job import serving
    from captionkit.storage import Storage

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with serving(options, Storage(options.storage), log_line, editing=editing) as server:
            log_line("open this address in a browser on this machine; Ctrl-C ends")
            print(server.url, flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        log_line("ended" + ("; every decision was saved when it was made" if editing else ""))
    finally:
        signal.signal(signal.SIGTERM, before)
    return OK

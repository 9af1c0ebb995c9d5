"""A table of small pictures, and a server of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from captionkit.review.job import serving
from captionkit.review.options import ReviewOptions
from captionkit.review.server import ReviewServer
from tests.export.table import STORAGE, make_table, picture

HOSTILE = "<img src=x onerror=alert(1)> & </script><script>alert(2)</script>"
CAPTIONS = ["a dog in the grass", "a red boat", "two cats", None, HOSTILE, "a tree"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Six rows, the later the lower its score; the fourth has failed. The last one's picture is gone."""
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    uris = [str(tmp_path / f"{number}.jpg") for number in range(6)]
    return make_table(tmp_path / "captions", dict(zip(uris, CAPTIONS, strict=True))).uri


@pytest.fixture
def serve() -> Iterator[Callable[..., ReviewServer]]:
    """Serves a table until the test ends."""
    with ExitStack() as stack:

        def start(table: str, **options: Any) -> ReviewServer:
            server = stack.enter_context(serving(ReviewOptions(table, **options), STORAGE))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield start

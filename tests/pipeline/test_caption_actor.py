"""The captioner actors: their way with memory, and what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from captionkit.errors import UsageError
from captionkit.images import Preprocessing
from captionkit.model.captioner import Hypothesis
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.caption_actor import ActorOptions, CaptionActor
from captionkit.pipeline.options import WordOptions
from captionkit.pipeline.preflight import check_same_maker
from captionkit.schema import PIXELS, SCHEMA
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable, Footer, Maker, to_parquet
from tests.support import table_rows

STORAGE = Storage()

LITTLE_MEMORY = """
import resource
import torch
import numpy as np
from captionkit.model.captioner import Captioner
from captionkit.pipeline.caption_actor import caption_with_smaller_batches
from captionkit.pipeline.options import WordOptions
from captionkit.model.search.options import SearchOptions

torch.set_num_threads(1)  # threads reserve address space of their own
captioner = Captioner.load(dtype="float32")  # what it takes depends on it, and "auto" on the chip
search, words = SearchOptions(beam=1), WordOptions()
size = captioner.preprocessing.size
few = np.random.default_rng(0).integers(0, 255, (8, size, size, 3), np.uint8)
expected, part = caption_with_smaller_batches(captioner, few, search, words, None)
assert part is None, part
many = np.concatenate([few] * 100)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 256 * 2**20,) * 2)
found, part = caption_with_smaller_batches(captioner, many, search, words, None)
assert part is not None and part < len(many), part
assert [one[0].text for one in found] == [one[0].text for one in expected] * 100
print("held", part)
"""


def test_a_batch_too_large_for_memory_is_halved() -> None:
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("held")


class _Says:
    """A captioner that says the same of every image."""

    preprocessing = Preprocessing(2, 2)
    fingerprint = "ck-0"

    def caption_pixels(self, pixels: Any, *_: Any, **__: Any) -> list[list[Hypothesis]]:
        return [[Hypothesis("a dog", -0.5), Hypothesis("a cat", -1.0)] for _ in pixels]


class _SayingActor(CaptionActor):
    def build(self, bundle: Any, options: ActorOptions) -> Any:
        return _Says()


def test_a_text_stands_before_every_caption_and_changes_no_score() -> None:
    words = WordOptions(say_before="Archive photo: ")
    actor = _SayingActor(
        cast(Any, None), ActorOptions(SearchOptions(), words, "float32", "torch", "cpu", 1, "r", carry=())
    )
    row = {"uri": "/a.jpg", "image_id": 1, "pixels": bytes(12), "width": 2, "height": 2, "version": "v"}
    batch = pa.Table.from_pylist(
        [row, {**row, "pixels": None, "error_kind": "truncated", "error": "short"}], pa.schema(PIXELS)
    )
    good, bad = actor(batch).to_pylist()
    assert (good["caption"], good["score"]) == ("Archive photo: a dog", -0.5)
    assert good["alternatives"] == [{"caption": "Archive photo: a cat", "score": -1.0}]
    assert bad["caption"] is None


@pytest.mark.parametrize("skip", [False, True])
def test_a_caption_that_an_image_brings_is_its_rows_own_and_no_pixels_are_spent_where_it_is_skipped(skip: bool) -> None:
    options = ActorOptions(
        SearchOptions(), WordOptions(), "float32", "torch", "cpu", 1, "r", (("old", pa.string()),), True, "old", skip
    )
    row = {"uri": "/a.jpg", "image_id": 1, "width": 2, "height": 2, "version": "v"}
    rows = [
        {**row, "old": " a horse\n", "pixels": None if skip else bytes(12)},
        {**row, "old": None, "pixels": bytes(12)},
        {**row, "old": "a cow", "error_kind": "truncated", "error": "short"},
        {**row, "old": " ", "pixels": bytes(12)},
    ]
    actor = _SayingActor(cast(Any, None), options)
    actor.captioner.calibration = None
    has, none, failed, blank = actor(pa.Table.from_pylist(rows, pa.schema([*PIXELS, ("old", pa.string())]))).to_pylist()
    assert (has["caption"], has["score"], has["status"], has["model"]) == ("a horse", None, "captioned", "input")
    ours = [{"caption": "a dog", "score": -0.5}, {"caption": "a cat", "score": -1.0}]
    assert has["alternatives"] == (None if skip else ours)
    assert (has["caption_s"] is None, has["old"]) == (skip, " a horse\n")
    assert [(one["caption"], one["score"], one["model"]) for one in (none, blank)] == [("a dog", -0.5, "ck-0")] * 2
    assert (failed["caption"], failed["status"], failed["model"]) == (None, "failed", "ck-0")


def test_a_table_without_that_text_is_of_another_maker(tmp_path: Path) -> None:
    search = asdict(SearchOptions()) | asdict(WordOptions())
    search = json.loads(json.dumps(search))
    older = {name: value for name, value in search.items() if name != "say_before"}
    uri = str(tmp_path / "captions-r-0.parquet")
    STORAGE.write(uri, to_parquet(table_rows.rows(["/a"]).select(SCHEMA.names), Footer("ck-0", older, {})))
    table = CaptionTable(str(tmp_path), STORAGE)
    check_same_maker(table, Maker("ck-0", search), mixed=False)
    with pytest.raises(UsageError, match="say_before=Archive"):
        check_same_maker(table, Maker("ck-0", search | {"say_before": "Archive photo: "}), mixed=False)

"""Actor pools on a cluster that changes under them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.deploy import nodes
from tests.support.archive import Folder


@pytest.mark.slow
@pytest.mark.parametrize("what", ["idle", "lose"])
def test_a_pool_grows_with_its_cluster_and_shrinks_again(folder: Folder, tmp_path: Path, what: str) -> None:
    for seed in range(10):
        folder.add(f"{seed}.jpg", seed)
    count = 6400
    for number in range(10, count):
        (folder.path / f"{number}.jpg").symlink_to(folder.path / f"{number % 10}.jpg")
    out = str(tmp_path / "out")
    said = nodes.run("tests.pipeline.growing", str(folder.path), out, str(tmp_path), what, timeout=350)
    report = json.loads(said.splitlines()[-1])
    assert report["code"] == 0
    steps = report["steps"]
    # One of two CPUs while there was one node; of eight Ray Data keeps half for fetch tasks as long as there are any.
    assert max(steps) == 3
    assert steps.index(1) < steps.index(3)
    assert report["nodes"] >= 2
    after = steps[len(steps) - steps[::-1].index(3) :]
    assert min(after) <= 1
    uris = [row["uri"] for row in CaptionTable(out, Storage()).rows()]
    assert len(uris) == len(set(uris)) == count

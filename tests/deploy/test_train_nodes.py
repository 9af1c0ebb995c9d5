"""Training whose workers are on different Ray nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionkit.model.captioner import Captioner
from captionkit.scenes import draw_folder
from tests.deploy import nodes

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.mark.parametrize(("cpus", "workers"), [(2, 3), (1, 3)])
def test_workers_on_several_nodes_train_one_captioner(tmp_path: Path, cpus: int, workers: int) -> None:
    scenes, output = tmp_path / "corpus", tmp_path / "out"
    scenes.mkdir()
    list(draw_folder(str(scenes), 12, 0, 96))
    names = sorted(file.name for file in scenes.glob("*.jpg"))
    (scenes / "dev.txt").write_text("\n".join(names[-3:]))
    said = nodes.run("tests.deploy.training_nodes", str(scenes), str(output), str(cpus), str(workers), timeout=350)
    report = json.loads(said.splitlines()[-1])
    assert report["workers"] == workers
    assert report["nodes"] >= 2
    assert Captioner.load(report["bundle"]).caption([str(scenes / names[0])])[0].text is not None
    points = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [point["loss"] for point in points if "loss" in point]
    assert losses[-1] < losses[0]

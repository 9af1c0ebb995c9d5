"""The recipe of docs/recipes/coco.md on a small folder that is laid out as COCO is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.cli.options import parse
from captionkit.training.job import TrainJob
from captionkit.training.options import TrainOptions
from tests.corpus.test_coco import coco_folder

RECIPE = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "coco.md"
SMALLER = {
    "--encoder": ["tiny_resnet", "--encoder-weights", "none", "--image-size", "64", "--min-count", "1"],
    "--grid": ["2"],
    "--decoder-options": ["embed_size", "8", "hidden_size", "8", "attention_size", "8"],
    "--epochs": ["2"],
    "--batch-size": ["10"],
    "--scst-epochs": ["1"],
    "--scst-batch": ["2"],
    "--cache": ["FEATURES"],
}


def recipe() -> dict[str, list[str]]:
    """The options of the recipe's first command, each with its values."""
    command = re.search(r"```bash\ncaptionkit train (.*?)```", RECIPE.read_text(), re.DOTALL)
    assert command
    options: dict[str, list[str]] = {}
    for word in shlex.split(command[1].replace("\\\n", " ")):
        if word.startswith("--"):
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    return options


def test_the_options_are_those_of_the_command() -> None:
    options = parse(TrainOptions, "train", [word for name, values in recipe().items() for word in (name, *values)])
    assert options.network.whole_image
    assert options.scst.scst_epochs > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_small_coco_becomes_a_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco_folder(tmp_path / "coco")
    monkeypatch.chdir(tmp_path)
    options = recipe() | SMALLER | {"--cache": [str(tmp_path / "features")], "--output": [str(tmp_path / "out")]}
    bundle = TrainJob(
        parse(TrainOptions, "train", [w for name, values in options.items() for w in (name, *values)])
    ).run()
    assert Captioner.load(bundle).caption([str(next((tmp_path / "coco/val2017").glob("*.jpg")))])[0].text is not None
    report = (tmp_path / "out" / "corpus.txt").read_text()
    assert "image_missing" in report or "not there" in report, report

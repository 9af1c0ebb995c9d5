"""Recipes: one file, and one command from a data set's folder to a captioner, its score cards and its page."""

from __future__ import annotations

import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from captionkit import Captioner
from captionkit.cli import OK, USAGE, main
from captionkit.config import from_values
from captionkit.corpus.flickr import LISTS
from captionkit.errors import UsageError
from captionkit.evaluation.options import EvaluateOptions
from captionkit.evaluation.preflight import check_searches
from captionkit.scenes import draw_folder
from captionkit.storage import Storage
from captionkit.training.datasets import DataSet
from captionkit.training.preflight import check_options
from captionkit.training.recipes import evaluations, read_recipe, recipe_names, recipe_text, summary, with_data

FLICKR8K = Path(__file__).parents[3] / "shared" / "flickr8k"
SMALL = """
about: a small one
dataset: flickr8k
output: {output}
encoder: tiny_resnet
encoder_weights: none
decoder: merge
decoder_options: {{embed_size: 8, hidden_size: 8}}
epochs: 1
batch_size: 10
min_count: 1
neighbours: true
calibrate: {{beams: [1], metrics: [CIDEr-D], pictures: 0}}
evaluate:
  plain: {{beams: [1], metrics: [BLEU-4, CIDEr-D], pictures: 1}}
  consensus: {{beams: [2], consensus: 3, metrics: [CIDEr-D], pictures: 0}}
"""


def kaggle(folder: Path, count: int) -> None:
    """Drawn scenes in Kaggle's layout of Flickr8k: no list of splits."""
    list(draw_folder(str(folder / "Images"), count, 0, 96))
    rows = [json.loads(line) for line in (folder / "Images" / "captions.jsonl").read_text().splitlines()]
    (folder / "Images" / "captions.jsonl").unlink()
    lines = [f'{row["uri"]},"{caption}"' for row in rows for caption in row["captions"]]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_training_that_can_start(name: str) -> None:
    recipe = read_recipe(name)
    options = recipe.options()
    options = replace(
        options,
        corpus=replace(options.corpus, corpus=("captions.txt",), images=("photos",)),
        network=replace(options.network, init="bundle" if "init" in recipe.needs else None),
    )
    check_options(options)
    for folder, values in evaluations(recipe, options, DataSet(("captions.txt",), ("photos",), True)).items():
        judged = from_values(EvaluateOptions, values, name)
        check_searches(judged)
        # What people set a threshold by is never fitted on test images.
        assert judged.corpus.split == ("val" if folder == "calibration" else "test")
        assert (folder == "calibration") is (judged.result.calibrate is not None)
    assert options.result.neighbours or not any(each.get("consensus") for each in recipe.evaluate.values())
    assert recipe.about
    assert f"captionkit recipe {name} >" in recipe_text(name)


def test_a_recipe_is_printed_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "flickr8k"]) == OK
    assert capsys.readouterr().out == recipe_text("flickr8k")
    assert main(["recipe"]) == OK
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipe_names())
    assert main(["recipe", "flickr9k"]) == USAGE
    assert "there is no recipe 'flickr9k'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epoch": 3}, "my.yaml: no option is called `epoch`; `epochs`?"),
        ({"evaluate": {"plain": 5}}, "expected options by name"),
        ({"needs": "init"}, "expected a list"),
        ({"calibrate": 5}, "calibrate: expected options"),
        ({"dataset": "flickr31k"}, "dataset 'flickr31k' is unknown; known are: flickr8k, coco"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(change: dict[str, object], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMALL.format(output="out")) | change))
    with pytest.raises(UsageError, match=complaint):
        read_recipe(str(path)).options()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--data", "x"], "name the recipe too"),
        (["--recipe", "flickr8k"], "name the folder of flickr8k with --data, or captions of your own"),
        (["--recipe", "flickr8k", "--config", "x.yaml"], "exclude each other"),
        (["--recipe", "flickr8k", "--data", "x", "--corpus", "y"], "--data and --corpus or --images exclude"),
        (["--recipe", "flickr8k-squeezenet-tuned", "--data", "x"], "flickr8k-squeezenet-tuned needs --init too"),
        (["--recipe", "flickr8k", "--data", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_at_once(
    args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = args if "--recipe" in args else [*args, "--corpus", "c.csv", "--output", "out"]
    assert main(["train", *argv]) in (1, USAGE)
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_what_a_recipe_will_do_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    kaggle(tmp_path / "data", 3)
    recipe = read_recipe("flickr8k")
    start = recipe.options()
    start = replace(start, data=str(tmp_path / "data"), result=replace(start.result, output=str(tmp_path / "out")))
    options, data = with_data(recipe, start, Storage())
    assert options.corpus.corpus == (str(tmp_path / "data" / "captions.txt"),)
    text = summary(recipe, options, data)
    assert "soft_attention on efficientnet_lite0" in text
    assert "2 evaluations on the dev images" in text
    # Without a list of test images, the dev images are judged: those of the training.
    values = evaluations(recipe, options, data)["plain"]
    assert (values["split"], values["split_list"]) == ("val", f"{tmp_path}/out/dev_images.txt")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_command_makes_a_captioner_and_its_score_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")
    kaggle(tmp_path / "data", 24)
    (tmp_path / "my.yaml").write_text(SMALL.format(output=tmp_path / "out"))
    command = ["train", "--recipe", str(tmp_path / "my.yaml"), "--data", str(tmp_path / "data")]
    assert main(command) == OK
    dev = (tmp_path / "out" / "dev_images.txt").read_text().split()
    for name in ("calibration", "plain", "consensus"):
        card = json.loads((tmp_path / "out" / "evaluation" / name / "score_card.json").read_text())
        assert sorted(image.rpartition("/")[2] for image in card["images"]) == sorted(dev)
    assert "<img" in (tmp_path / "out" / "evaluation" / "plain" / "page.html").read_text()
    said = capsys.readouterr().err
    assert "no calibration: " in said  # of so few dev images; nothing else is lost by it
    assert said.index("stages (merge on tiny_resnet)") < said.index("24 images")
    # The same command again has nothing left to do.
    assert main(command) == OK
    assert capsys.readouterr().err.count("made before") == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs Flickr8k in ../shared/flickr8k")
@pytest.mark.usefixtures("ray_cluster")
def test_the_recipe_runs_on_200_photos_from_the_data_set_s_own_zip_files(tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")
    chosen: list[str] = []
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "Flickr8k_Dataset.zip", "w") as photos:
        for shard, count in (("train-0000.tar", 140), ("dev-0000.tar", 60)):
            with tarfile.open(FLICKR8K / shard) as tar:
                for header, _ in zip(tar, range(count), strict=False):
                    file = tar.extractfile(header)
                    assert file is not None
                    photos.writestr(f"Flicker8k_Dataset/{header.name}", file.read())
                    chosen.append(header.name)
    tokens = (FLICKR8K / "Flickr8k.token.txt").read_text().splitlines(keepends=True)
    with zipfile.ZipFile(tmp_path / "data" / "Flickr8k_text.zip", "w") as texts:
        texts.writestr("Flickr8k.token.txt", "".join(line for line in tokens if line.partition("#")[0] in chosen))
        texts.writestr(LISTS["train"], "\n".join(chosen[:140]))
        texts.writestr(LISTS["val"], "\n".join(chosen[140:]))
    # Copied and edited, as people do it: a smaller beam, and no more neighbours than there are.
    text = recipe_text("flickr8k").replace("[20]", "[3]").replace("6000", "100")
    (tmp_path / "my.yaml").write_text(text)
    output = tmp_path / "out"
    command = [
        "train",
        "--recipe",
        str(tmp_path / "my.yaml"),
        "--data",
        str(tmp_path / "data"),
        "--output",
        str(output),
    ]
    assert main([*command, "--epochs", "1", "--min-count", "2"]) == OK
    record = json.loads((output / "training.json").read_text())
    assert record["failed_images"] == 0
    assert record["stages"]["captions"]["steps"] == round(700 / 64)
    for name, search in (("plain", "beam 5"), ("consensus", "beam 3, consensus of 100")):
        card = json.loads((output / "evaluation" / name / "score_card.json").read_text())
        assert list(card["scores"]) == [search]
        assert len(card["images"]) == 60
    assert Captioner.load(str(output / "bundle")).calibration is not None

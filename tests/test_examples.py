"""The examples run as they stand: programs, and notebooks from their first cell to their last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from captionkit.scenes import draw_folder
from tests.adopt import originals
from tests.adopt.test_keras_merge import Original, tokenizer
from tests.adopt.test_show_tell import ALL, make_decoder, make_encoder
from tests.test_readme import ROOT

pytestmark = pytest.mark.ray

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three drawn scenes, one file that is no image, and their captions."""
    list(draw_folder(str(tmp_path / "scenes"), 3, 0, 128))
    (tmp_path / "scenes" / "broken.jpg").write_bytes(b"not an image")
    return tmp_path / "scenes"


def test_captioning_in_python_captions_what_it_can(scenes: Path) -> None:
    images = [str(path) for path in sorted(scenes.glob("*.jpg"))]
    lines = run("examples/caption_in_python.py", *images).splitlines()
    assert len(lines) == len(images)
    assert lines[0].startswith(f"{images[0]}: ")
    assert "broken.jpg: " in lines[0]
    assert all(line.endswith(")") for line in lines[1:])


def test_the_table_is_read(tmp_path: Path) -> None:
    rows = [
        {"uri": "a.jpg", "status": "captioned", "caption": "a red kite", "score": -0.2, "error_kind": None},
        {"uri": "b.jpg", "status": "captioned", "caption": "two birds", "score": -0.1, "error_kind": None},
        {"uri": "c.jpg", "status": "failed", "caption": None, "score": None, "error_kind": "corrupt"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "captions-r-00000.parquet")
    (tmp_path / "_runs").mkdir()
    (tmp_path / "_runs" / "r.json").write_text("{}")  # a run record is no row
    lines = run("examples/read_table.py", str(tmp_path), "--top", "1").splitlines()
    assert sorted(line.split() for line in lines[:2]) == [["1", "failed", "corrupt"], ["2", "captioned"]]
    assert lines[2:] == ["-0.10  two birds  b.jpg"]


def execute(path: Path, folder: Path) -> list[Any]:
    """The outputs of a notebook's cells. It runs in `folder`, and leaves the notebook itself alone."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(outputs: list[Any], kind: str) -> list[str]:
    """What the outputs show of a MIME type."""
    return ["".join(output["data"][kind]) for output in outputs if kind in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_notebook_captions_a_folder_and_queries_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    outputs = execute(EXAMPLES / "caption_a_folder.ipynb", tmp_path)
    tables = shown(outputs, "text/plain")
    assert "captioned" in tables[0]
    assert "broken.jpg" in "".join(tables)
    assert any("iframe" in page for page in shown(outputs, "text/html"))
    assert tables[-1].count("\n") == 2  # a header, and a line for each of two runs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_notebook_trains_a_captioner_and_compares_beams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    outputs = execute(EXAMPLES / "train_on_scenes.ipynb", tmp_path)
    assert shown(outputs, "image/png")
    [table] = [text for text in shown(outputs, "text/plain") if "log-probability" in text]
    likely = [float(line.split()[1]) for line in table.splitlines()[2:]]
    assert len(likely) == 3
    assert likely[0] < max(likely[1:])  # greedy finds nothing likelier than all beams do


def make_photos(folder: Path) -> None:
    """Four pictures, and captions of them in words that the models of `originals` know."""
    (folder / "photos").mkdir()
    lines = ["image,caption"]
    for seed in range(4):
        originals.photo(seed).save(folder / "photos" / f"{seed}.png")
        lines += [f"{seed}.png,a {colour} dog runs on the grass" for colour in ("red", "small")]
    (folder / "photos.csv").write_text("\n".join(lines))


def assert_the_tutorial_was_followed(outputs: list[Any]) -> None:
    """Beams beside each other, a table of captions, and a score card."""
    [page] = [text for text in shown(outputs, "text/html") if "ck-compared" in text]
    assert [name in page for name in ("greedy", "beam 3", "beam 10", "0.png")] == [True] * 4
    assert "3.png" in "".join(shown(outputs, "text/plain"))
    [card] = shown(outputs, "text/markdown")
    assert "| beam 5 |" in card
    assert "BLEU-4" in card


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_notebook_goes_on_from_the_pytorch_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_photos(tmp_path)
    models = tmp_path / "tutorial"
    models.mkdir()
    originals.save_torch(make_encoder().state_dict(), models / "encoder-5-3000.pkl")
    originals.save_torch(make_decoder().state_dict(), models / "decoder-5-3000.pkl", legacy=True)
    originals.save_pickle(originals.Vocabulary(ALL), models / "vocab.pkl", 2)
    assert_the_tutorial_was_followed(execute(EXAMPLES / "adopt_pytorch_tutorial.ipynb", tmp_path))
    assert (tmp_path / "beams.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_notebook_goes_on_from_the_keras_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_photos(tmp_path)
    models = tmp_path / "tutorial"
    models.mkdir()
    Original(features=2048).save_h5(models / "model_9.h5")
    (models / "tokenizer.p").write_bytes(tokenizer())
    originals.save_keras_inception(models / "inception_v3_weights.h5")
    assert_the_tutorial_was_followed(execute(EXAMPLES / "adopt_keras_tutorial.ipynb", tmp_path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_what_a_run_left_in_them(path: Path) -> None:
    book = json.loads(path.read_text("utf-8"))
    nbformat.validate(nbformat.from_dict(book))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None and not cell["metadata"] for cell in code)
    assert len(path.read_bytes()) < 20_000


def test_every_example_stands_in_these_tests() -> None:
    text = Path(__file__).read_text("utf-8")
    known = {"submit_job.py": "tests/deploy"}
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} - known.keys()
    assert [name for name in sorted(names) if name not in text] == []
    assert os.access(EXAMPLES / "submit_job.py", os.R_OK)


@pytest.mark.slow
def test_a_decoder_of_one_s_own_learns_and_captions() -> None:
    lines = run("examples/own_decoder.py", "--scenes", "16", "--steps", "60").splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step ")]
    assert losses[-1] < losses[0] / 2
    assert len([line for line in lines if "(learned: " in line]) == 3

"""`captionkit show` from addresses to text, page and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from captionkit import Captioner
from captionkit.cli import OK, USAGE, main
from captionkit.scenes import draw_folder
from tests.test_readme import ROOT

DEFAULT = ROOT / "captionkit" / "assets" / "default"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, their captions in captions.jsonl."""
    folder = tmp_path_factory.mktemp("scenes")
    list(draw_folder(str(folder), 3, 0, 96))
    return folder


def test_images_of_a_corpus_with_references_and_bleu(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    corpus = str(scenes / "captions.jsonl")
    assert main(["show", "--corpus", corpus, "--beams", "1", "3", "--limit", "2", "--output", str(page)]) == OK
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(".jpg")] == [
        str(path) for path in sorted(scenes.glob("*.jpg"))[:2]
    ]
    row = json.loads((scenes / "captions.jsonl").read_text().splitlines()[0])
    known = row.get("captions") or [row["caption"]]
    assert f"reference: {known[0]}" in out
    assert "beam 3" in out
    assert "BLEU-4" in out
    assert known[0] in page.read_text()


def test_folders_and_patterns_and_names_as_typed(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes.parent)
    first = sorted(scenes.glob("*.jpg"))[0]
    picture = tmp_path / "picture.png"
    typed = f"{scenes.name}/{first.name}"
    pattern = f"{scenes.name}/*.jpg"
    assert main(["show", typed, pattern, "--beams", "1", "--limit", "2", "--output", str(picture)]) == OK
    names = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".jpg")]
    assert names[0] == typed
    assert len(names) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to show"),
        (["nosuch.jpg"], r"nosuch\.jpg: no such image"),
        (["a.jpg", "--output", "out.pdf"], r"out\.pdf: a comparison is written as"),
        (["a.jpg", "--limit", "0"], "--limit is at least 1"),
    ],
)
def test_what_cannot_be_shown_is_said_before_anything_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *arguments]) == USAGE
    assert message.replace("\\", "") in capsys.readouterr().err


def test_a_corpus_without_any_of_the_images_is_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jpg"
    other.write_bytes(sorted(scenes.glob("*.jpg"))[0].read_bytes())
    assert main(["show", str(other), "--corpus", str(scenes / "captions.jsonl")]) == USAGE
    assert "no captions of other.jpg" in capsys.readouterr().err


def test_captioners_together_by_several_models(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded = Captioner.load(device="cpu", dtype="float32")
    with torch.no_grad():
        next(embedded.decoder.parameters()).mul_(0.5)
    embedded.save(tmp_path / "other")
    image, models = sorted(scenes.glob("*.jpg"))[0], [str(DEFAULT), str(tmp_path / "other")]
    common = ["--beams", "2", "--dtype", "float32", "--model", models[0], "--model", models[1]]
    assert main(["show", *common, str(image)]) == OK
    together = Captioner.load(models, device="cpu", dtype="float32")
    said = together.caption([image], beam=2)[0]
    assert said.text is not None
    assert f"{said.score:.2f}".replace("-", "−") + f"  {said.text}" in capsys.readouterr().out

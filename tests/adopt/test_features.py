"""Features of images, and no encoder at all."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from captionkit import Captioner
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt
from captionkit.adopt.options import AdoptOptions
from captionkit.cli import OK, USAGE, main
from captionkit.errors import UsageError
from captionkit.model.search.options import SearchOptions
from tests.adopt.originals import photo
from tests.adopt.test_keras_merge import FEATURES, TEXT, Original, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge model, its words and features, as the tutorial leaves them."""
    path = tmp_path_factory.mktemp("tutorial")
    (path / "tokenizer.p").write_bytes(tokenizer())
    Original().save_h5(path / "model.h5")
    values = np.abs(np.random.default_rng(3).normal(size=(300, FEATURES))).astype(np.float32)
    by_name = {f"{number}.jpg": one for number, one in enumerate(values)}
    (path / "encoded_test_images.pkl").write_bytes(pickle.dumps(by_name))
    return path


def test_captions_of_features_are_written(folder: Path, tmp_path: Path) -> None:
    """The encoder cannot be told: 512 values are nobody's in Keras."""
    lines: list[str] = []
    options = AdoptOptions((str(folder),), str(tmp_path / "bundle"), captions=str(tmp_path / "captions.jsonl"))
    adopt(options, lines.append)
    assert any(line.startswith("warning: the bundle has no encoder") for line in lines)
    assert any("name it by --encoder" in line for line in lines if line.startswith("note: "))
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    written = {row["image"]: row["caption"] for row in rows}
    assert len(written) == 300
    original, words = Original(), [1]
    features = pickle.loads((folder / "encoded_test_images.pkl").read_bytes())["299.jpg"]
    for _ in range(19):  # the tutorial's loop
        probabilities = original.predict(features, words)
        probabilities[[0, 1, 2][: 3 if len(words) == 1 else 2]] = 0  # captionkit's search: at least one word
        words.append(int(probabilities.argmax()))
        if words[-1] == 2:
            break
    assert written["299.jpg"] == " ".join(TEXT[number - 1] for number in words[1:] if number != 2)
    captioner = Captioner.load(tmp_path / "bundle", dtype="float32", device="cpu")
    [[best]] = captioner.caption_features(torch.from_numpy(features)[None], SearchOptions(beam=1, max_length=19))
    assert best.text == written["299.jpg"]
    both = Captioner.load([tmp_path / "bundle"], dtype="float32", device="cpu", engine="auto")
    assert both.fingerprint == captioner.fingerprint


def test_images_are_refused_in_the_right_words(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, image = str(tmp_path / "bundle"), tmp_path / "photo.png"
    photo(0).save(image)
    assert main(["adopt", str(folder), "--output", bundle]) == OK
    captioner = Captioner.load(bundle)
    with pytest.raises(UsageError, match=r"has no encoder.*--encoder-weights"):
        captioner.caption([image])
    with pytest.raises(UsageError, match="has no encoder"):
        Captioner.ensemble([captioner, Captioner.load(bundle)])
    capsys.readouterr()
    for command in (
        ["caption", "--input", str(image), "--output", str(tmp_path / "table"), "--model", bundle],
        ["show", str(image), "--model", bundle],
        ["convert", bundle, "--to", "onnx", str(tmp_path / "onnx")],
    ):
        assert main(command) == USAGE
        assert "this captioner has no encoder" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


def test_without_features_the_encoder_is_still_wanted(folder: Path, tmp_path: Path) -> None:
    files = (str(folder / "model.h5"), str(folder / "tokenizer.p"))
    with pytest.raises(AdoptError, match="name it by --encoder"):
        adopt(AdoptOptions(files, str(tmp_path / "a")), print)
    with pytest.raises(AdoptError, match="--captions wants features"):
        adopt(AdoptOptions(files, str(tmp_path / "b"), encoder="none", captions=str(tmp_path / "c.jsonl")), print)
    adopt(AdoptOptions(files, str(tmp_path / "d"), encoder="none"), print)
    assert Captioner.load(tmp_path / "d").encoder.feature_size == FEATURES

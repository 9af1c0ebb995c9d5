"""ONNX Runtime computes what PyTorch does, alone, for any number of images."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from captionkit import Captioner
from captionkit.cli import OK, USAGE, main
from captionkit.convert.onnx_files import difference, to_onnx
from captionkit.images import Preprocessing
from captionkit.model.decoders import DECODERS, build_decoder
from captionkit.model.encoders import build_encoder
from captionkit.scenes import draw, random_scene
from captionkit.vocabulary import Vocabulary
from tests.test_readme import ROOT

MAXOUT = {"place_size": 20, "deep_output": False, "gated": False, "zero_start": True, "maxout": True}


def captioner(family: str, encoder: str = "resnet18", **options: Any) -> Captioner:
    torch.manual_seed(0)
    kind = DECODERS[family].feature_kind
    built = build_encoder(encoder, kind, "none", Preprocessing(96, 96, "bilinear", "squash"))
    vocabulary = Vocabulary.build(["a red ball and a green tree on the grass with two dogs"], min_count=1)
    config = {"vocab_size": len(vocabulary), "feature_size": built.feature_size, **options}
    return Captioner(built, build_decoder(family, config), vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {}) for family in DECODERS),
        ("show_tell", {"maxout": True}),
        ("soft_attention", MAXOUT),
        ("top_down", {"place_size": 20, "image_size": 24, "deep_output": False}),
    ],
)
def test_every_family_agrees_to_float_noise(family: str, options: dict[str, Any]) -> None:
    speaker = captioner(family, **options)
    files = to_onnx(speaker)
    assert difference(speaker, files) < 1e-4
    about = json.loads(files["captioner.json"])
    assert about["words"] == list(speaker.vocabulary.words)
    assert not [name for name, data in files.items() if str(ROOT).encode() in data]


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder", ["keras_inception_v3", "keras_xception", "caffe_resnet18", "squeezenet1_1", "efficientnet_lite0"]
)
def test_encoders_of_other_kinds_agree(encoder: str) -> None:
    torch.manual_seed(0)
    built = build_encoder(encoder, "pooled", "none", Preprocessing(128, 128, "bilinear", "squash"))
    vocabulary = Vocabulary.build(["a red ball"], min_count=1)
    config = {"vocab_size": len(vocabulary), "feature_size": built.feature_size}
    speaker = Captioner(built, build_decoder("show_tell", config), vocabulary)
    session = onnxruntime.InferenceSession(to_onnx(speaker)["encoder.onnx"])
    pixels = np.random.default_rng(1).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)
    [found] = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        expected = built(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.slow
def test_the_loop_of_the_documentation_captions_without_pytorch(tmp_path: Path) -> None:
    bundle = ROOT / "captionkit" / "assets" / "default"
    assert main(["convert", str(bundle), "--to", "onnx", str(tmp_path / "onnx")]) == OK
    [loop] = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs" / "adopt.md").read_text("utf-8"), re.DOTALL)
    said = set()
    for seed in range(3):
        photo = draw(random_scene(seed), 96)
        photo.save(tmp_path / "dog.jpg", "PNG")  # what it is, its content tells
        code = f"{loop}\nimport sys\nassert not {{'torch', 'captionkit'}} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        expected = Captioner.load(bundle, device="cpu", dtype="float32").caption([photo], beam=1, max_length=20)
        assert done.stdout.strip() == expected[0].text
        said.add(done.stdout)
    assert len(said) > 1


def test_without_onnx_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bundle = str(ROOT / "captionkit" / "assets" / "default")
    assert main(["convert", bundle, "--to", "onnx", str(tmp_path / "out")]) == USAGE
    assert "pip install 'captionkit[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

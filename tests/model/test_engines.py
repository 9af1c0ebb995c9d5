"""What computes an encoder: the same features, faster, and the encoder itself left as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captionkit import Captioner
from captionkit.errors import UsageError
from captionkit.images import Preprocessing
from captionkit.model import engines
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.model.encoders.fold import fold_batch_norms
from captionkit.model.engines import WORTH_OPENVINO, engine_for, has_openvino, make_encode
from captionkit.model.search.options import SearchOptions
from captionkit.scenes import draw, random_scene

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not has_openvino(), reason="needs captionkit[openvino]")


def scenes(count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) uint8."""
    return np.stack([np.asarray(draw(random_scene(20_000_000 + seed), size).convert("RGB")) for seed in range(count)])


def with_statistics(encoder: Encoder) -> Encoder:
    """With batch norms as if it had been trained: new ones change nothing, and would hide a fault."""
    generator = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return encoder


def small_encoder(name: str, output: str = "grid") -> Encoder:
    torch.manual_seed(0)
    return with_statistics(build_encoder(name, output, "none", Preprocessing(size=96, resize=96)))  # type: ignore[arg-type]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("tiny_resnet", "pooled"),
        ("resnet18", "grid"),
        ("resnet18", "pooled"),
        ("mobilenet_v3_small", "grid"),  # torchvision's extractor does not enter its blocks
        ("mobilenet_v3_small", "pooled"),
    ],
)
@torch.inference_mode()
def test_folding_takes_every_batch_norm_and_changes_nothing(name: str, output: str) -> None:
    encoder = small_encoder(name, output)
    pixels = torch.from_numpy(scenes(2, 96))
    expected = encoder(pixels)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert fold_batch_norms(encoder.network) == norms > 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)


class Shared(nn.Module):
    """A convolution whose values are also read without the batch norm, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, maps: Tensor) -> Tensor:
        first = self.first(maps)
        return self.second(self.twice(self.norm(first) + first)) + self.twice(maps)


class Undecided(nn.Sequential):
    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps) if maps.sum() > 0 else maps


def test_a_batch_norm_that_cannot_be_folded_stays() -> None:
    assert fold_batch_norms(Shared().eval()) == 0
    assert fold_batch_norms(Undecided(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_torch_engine(dtype: torch.dtype) -> None:
    encoder = small_encoder("resnet18")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    pixels = torch.from_numpy(scenes(2, 96))
    expected = encoder(pixels)
    encode, name = make_encode(encoder, CPU, dtype, "torch", "key")
    features = encode(pixels)
    assert (name, features.dtype, features.shape) == ("torch", dtype, expected.shape)
    assert relative_error(features, expected) < (1e-5 if dtype == torch.float32 else 0.03)
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_a_captioner_saves_what_it_was_loaded_from(tmp_path: Path) -> None:
    captioner = Captioner.load(device="cpu", dtype="float32")
    captioner.caption_pixels(scenes(1, captioner.preprocessing.size), SearchOptions())
    assert captioner.save(tmp_path) == Captioner.load(device="cpu", dtype="float32", engine=None).save(tmp_path / "b")


def test_captions_of_scenes_are_those_of_float32() -> None:
    plain = Captioner.load(device="cpu", dtype="float32", engine=None)
    folded = Captioner.load(device="cpu", dtype="float32", engine="torch")
    pixels = scenes(32, plain.preprocessing.size)
    expected, found = (one.caption_pixels(pixels, SearchOptions(beam=3)) for one in (plain, folded))
    assert [row[0].text for row in found] == [row[0].text for row in expected]
    assert [row[0].score for row in found] == pytest.approx([row[0].score for row in expected], abs=1e-4)


def test_which_engine_a_job_asks_for() -> None:
    assert engine_for("auto", WORTH_OPENVINO - 1) == "torch"
    assert engine_for("auto", WORTH_OPENVINO) == engine_for("auto", None) == "auto"
    assert engine_for("openvino", 1) == "openvino"
    assert engine_for("torch", 10**6) == "torch"


def test_openvino_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_openvino", lambda: False)
    encoder = small_encoder("resnet18")
    assert make_encode(encoder, CPU, torch.float32, "auto", "key")[1] == "torch"
    with pytest.raises(UsageError, match=r"pip install 'captionkit\[openvino\]', or take torch"):
        make_encode(encoder, CPU, torch.float32, "openvino", "key")
    with pytest.raises(UsageError, match="openvino computes on CPUs, not on meta"):
        make_encode(encoder, torch.device("meta"), torch.float32, "openvino", "key")


def test_auto_falls_back_where_openvino_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "has_openvino", lambda: True)
    monkeypatch.setattr(engines, "_openvino", fail)
    encoder = small_encoder("resnet18")
    assert make_encode(encoder, CPU, torch.float32, "auto", "key")[1] == "torch, as OpenVINO failed"
    with pytest.raises(UsageError, match="cannot compute this encoder: no such operation; take torch"):
        make_encode(encoder, CPU, torch.float32, "openvino", "key")


@needs_openvino
@torch.inference_mode()
def test_the_openvino_engine_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = small_encoder("mobilenet_v3_small")
    for dtype, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        encode, name = make_encode(encoder, CPU, dtype, "openvino", "key")
        assert name.startswith("OpenVINO")
        for count in (1, 3):
            pixels = torch.from_numpy(scenes(count, 96))
            features = encode(pixels)
            assert features.dtype == dtype
            assert relative_error(features, encoder(pixels)) < error
    [made] = (tmp_path / "captionkit" / "openvino").iterdir()
    monkeypatch.setattr(engines, "_convert", None)  # what is in the cache is not converted again
    make_encode(encoder, CPU, torch.float32, "openvino", "key")
    (made / "encoder.xml").write_text("damaged")
    assert make_encode(encoder, CPU, torch.float32, "auto", "key")[1] == "torch, as OpenVINO failed"

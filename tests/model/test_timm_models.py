"""timm's convolutional networks as encoders, with random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from captionkit.images import Preprocessing
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import build_decoder
from captionkit.model.encoders import EncoderError, build_encoder, default_preprocessing
from captionkit.model.encoders.fold import fold_batch_norms
from captionkit.vocabulary import Vocabulary

timm = pytest.importorskip("timm", reason="an extra")

SMALL = Preprocessing(size=64, resize=64)
NAME = "timm/resnet18.a1_in1k"


def pixels(size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=generator)


def test_the_preprocessing_is_the_one_that_timm_records() -> None:
    found = default_preprocessing("timm/resnet50.a1_in1k")
    transforms = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=timm.create_model("resnet50.a1_in1k"))
    )
    resize, crop, *_, normalise = transforms.transforms
    assert (found.resize, found.size, found.interpolation) == (resize.size, crop.size[0], resize.interpolation.value)
    assert found.mean == pytest.approx(normalise.mean.tolist())
    assert found.std == pytest.approx(normalise.std.tolist())
    assert default_preprocessing("timm/resnet50.a1_in1k", 256).resize == 269


@pytest.mark.parametrize("name", [NAME, "timm/mobilenetv3_small_050", "timm/convnext_atto", "timm/vgg11"])
def test_features_are_those_that_timm_computes(name: str) -> None:
    model = timm.create_model(name.removeprefix("timm/"), pretrained=False).eval()
    state = model.state_dict()
    normalised = (pixels().permute(0, 3, 1, 2).float() / 255 - torch.tensor(SMALL.mean).view(3, 1, 1)) / torch.tensor(
        SMALL.std
    ).view(3, 1, 1)
    with torch.inference_mode():
        maps = model.forward_features(normalised)
        pooled = model.forward_head(maps, pre_logits=True).flatten(1)
        for output, expected in (("grid", maps.permute(0, 2, 3, 1).flatten(1, 2)), ("pooled", pooled)):
            encoder = build_encoder(name, output, state, SMALL)  # type: ignore[arg-type]
            torch.testing.assert_close(encoder(pixels()), expected, rtol=1e-3, atol=1e-4)
            assert encoder.network.state_dict().keys() <= state.keys()


def test_a_captioner_of_a_timm_encoder_is_saved_and_loaded(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["a dog runs"], 1)
    encoder = build_encoder(NAME, "grid", "none", SMALL, grid=2)
    decoder = build_decoder(
        "soft_attention",
        {"vocab_size": len(vocabulary), "feature_size": 512, "embed_size": 8, "hidden_size": 8, "attention_size": 8},
    )
    made = Captioner(encoder, decoder, vocabulary)
    made.save(tmp_path)
    loaded = Captioner.load(tmp_path, dtype="float32")
    assert loaded.encoder.config == encoder.config
    assert loaded.preprocessing == SMALL
    torch.testing.assert_close(loaded.encode(pixels().numpy()), encoder(pixels()), rtol=1e-3, atol=1e-4)


def test_what_is_a_norm_and_an_activation_too_is_not_folded_away() -> None:
    encoder = build_encoder("timm/mobilenetv3_small_050", "grid", "none", SMALL)
    with torch.inference_mode():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        before = encoder(pixels())
        fold_batch_norms(encoder.network)
        torch.testing.assert_close(encoder(pixels()), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("timm/resnet5", "timm has no model 'resnet5'; close to it: timm/"),
        ("timm/hf-hub:someone/model", "timm has no model 'hf-hub:someone/model'"),
        ("timm/local-dir:/tmp", "timm has no model"),
        ("timm/vit_tiny_patch16_224", "is no convolutional network|cannot read images of 64×64"),
    ],
)
def test_names_that_cannot_be_encoders(name: str, complaint: str) -> None:
    with pytest.raises(EncoderError, match=complaint):
        build_encoder(name, "pooled", "none", SMALL)


def test_other_weights_and_layers_are_refused() -> None:
    with pytest.raises(EncoderError, match="these are not the weights of timm/resnet18"):
        build_encoder(NAME, "pooled", {"conv1.weight": torch.zeros(1)}, SMALL)
    with pytest.raises(EncoderError, match="not layer 'layer3'"):
        build_encoder(NAME, "grid", "none", SMALL, layer="layer3")


def test_weights_that_cannot_be_downloaded_are_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(model: str, pretrained: bool) -> torch.nn.Module:
        if pretrained:
            raise ConnectionError("no route to the hub")
        return create(model, pretrained=False)  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EncoderError, match=r"cannot be downloaded \(no route to the hub\); give a file"):
        build_encoder(NAME, "pooled", "pretrained", SMALL)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EncoderError, match=r"pip install captionkit\[timm\]"):
        default_preprocessing(NAME)

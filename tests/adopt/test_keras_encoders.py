"""Weights of keras.applications: an adopted encoder computes the features that Keras would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from captionkit.adopt.captioners import change_preprocessing
from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.keras_encoders import doubts, is_encoder, to_torchvision
from captionkit.adopt.keras_merge import adopt_merge
from captionkit.images import prepare
from captionkit.model.encoders import build_encoder
from captionkit.model.encoders.fold import fold_batch_norms
from tests.adopt.keras_networks import Network, run_resnet, run_xception, save_layers
from tests.adopt.originals import photo
from tests.adopt.test_keras_merge import Original, tokenizer

SIDE = 79
"""Of the images in pixels: pooling meets odd and even sides."""


def pixels(caffe: bool) -> Tensor:
    """Three photos by nearest neighbour, as Keras's preprocess_input has them."""
    found = np.stack([np.asarray(photo(n).resize((SIDE, SIDE), 0), np.float32) for n in range(3)])
    found = found[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32) if caffe else found / 127.5 - 1
    return torch.from_numpy(np.ascontiguousarray(found)).permute(0, 3, 1, 2)


def assert_same(path: Path, name: str, expected: Tensor) -> None:
    given = look(path.read_bytes(), path.name).keras_weights
    found, tensors, preprocessing = to_torchvision(given)
    assert found == name
    encoder = build_encoder(
        name, "pooled", tensors, change_preprocessing(preprocessing, {"size": SIDE, "resize": SIDE})
    )
    images = torch.from_numpy(np.stack([prepare(photo(n), encoder.preprocessing) for n in range(3)]))
    for folded in (False, True):
        assert not folded or fold_batch_norms(encoder.network) > 30
        with torch.inference_mode():
            features = encoder(images)
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert float((expected[0] - expected[1]).abs().max()) > 0.1 * float(expected.abs().max())


def test_xception(tmp_path: Path) -> None:
    net = Network(1)
    expected = run_xception(net, pixels(caffe=False), ["_8", "_9", "_10", "_11"])
    assert_same(save_layers(tmp_path / "x.h5", net.layers), "keras_xception", expected)


@pytest.mark.parametrize("old", [False, True])
def test_resnet50(tmp_path: Path, old: bool) -> None:
    net = Network(2)
    expected = run_resnet(net, pixels(caffe=True), (3, 4, 6, 3), old)
    assert_same(save_layers(tmp_path / "r.h5", net.layers), "keras_resnet50", expected)
    assert len(doubts(net.layers, {})) == old


def test_another_network_is_refused_and_the_known_ones_named() -> None:
    arrays = {"stem_conv": [np.zeros((3, 3, 3, 8), np.float32)], "top_conv": []}
    assert not is_encoder(arrays)
    with pytest.raises(AdoptError, match=r"Xception, ResNet50.*layers stem_conv, top_conv"):
        to_torchvision(arrays)


def test_a_captioner_with_xception_is_adopted_by_its_own_weights(tmp_path: Path) -> None:
    net = Network(1)
    run_xception(net, pixels(caffe=False), ["", "_1", "_2", "_3"])
    files = [
        save_layers(tmp_path / "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", net.layers),
        Original(features=2048).save_h5(tmp_path / "model_9.h5"),
    ]
    given = [look(path.read_bytes(), path.name) for path in files] + [look(tokenizer(), "tokenizer.p")]
    adopted = adopt_merge(given, None, "", (), {"size": SIDE, "resize": SIDE})
    assert adopted.exact[0].startswith("keras_xception with the weights of xception_weights")
    assert "interpolation=bicubic" in adopted.approximated[0]
    adopted = adopt_merge(given, None, "", (), {"size": SIDE, "resize": SIDE, "interpolation": "bicubic"})
    assert not adopted.approximated
    assert adopted.captioner.preprocessing.interpolation == "bicubic"

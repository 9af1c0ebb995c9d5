"""Files that Keras 3 itself writes, and what it computes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captionkit.adopt.contents import look
from captionkit.adopt.keras_encoders import to_torchvision
from captionkit.adopt.keras_merge import adopt_merge
from captionkit.images import prepare
from captionkit.model.encoders import build_encoder
from tests.adopt.originals import photo
from tests.adopt.test_keras_merge import TEXT, tokenizer, weights

__all__ = ["weights"]
pytestmark = pytest.mark.slow
FEATURES, ROWS, LENGTH = 512, len(TEXT) + 1, 9


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return pytest.importorskip("keras")


def build(keras: Any, join: str) -> Any:
    layers = keras.layers
    image, words = layers.Input((FEATURES,)), layers.Input((LENGTH,))
    x = layers.Dense(16, activation="relu")(layers.Dropout(0.5)(image))
    y = layers.LSTM(16)(layers.Dropout(0.5)(layers.Embedding(ROWS, 8, mask_zero=True)(words)))
    joined = getattr(layers, join)()([y, x])
    out = layers.Dense(ROWS, activation="softmax")(layers.Dense(12, activation="relu")(joined))
    model = keras.Model([image, words], out)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    return model


@pytest.mark.parametrize("join", ["Add", "Concatenate"])
@pytest.mark.parametrize("form", ["m.keras", "m.h5", "m.weights.h5"])
def test_keras_and_the_bundle_predict_alike(keras: Any, weights: Path, tmp_path: Path, join: str, form: str) -> None:
    model = build(keras, join)
    files = [tokenizer()]
    if form == "m.weights.h5":
        model.save_weights(tmp_path / form)
        files.append(model.to_json().encode())
    else:
        model.save(tmp_path / form)
    files.append((tmp_path / form).read_bytes())
    given = [look(data, f"file {number}") for number, data in enumerate(files)]
    captioner = adopt_merge(given, look(weights.read_bytes(), "w"), "resnet18", (), {}).captioner
    features = np.abs(np.random.default_rng(1).normal(size=(1, FEATURES))).astype(np.float32)
    numbers = [1, 7, 3, 15]
    padded = np.array([[0] * (LENGTH - len(numbers)) + numbers])
    expected = np.asarray(model.predict([features, padded], verbose=0))[0]
    spelled = {"startseq": "<start>", "endseq": "<end>"}
    new = [captioner.vocabulary.words.index(spelled.get(word, word)) for word in TEXT]
    with torch.no_grad():
        tokens = torch.tensor([[new[number - 1] for number in numbers]])
        logits = captioner.decoder.cpu()(torch.from_numpy(features), tokens)[0, -1]
    np.testing.assert_allclose(torch.softmax(logits, dim=-1)[new].numpy(), expected[1:], rtol=1e-4, atol=1e-6)


def test_inception_v3_of_keras_gives_its_features(keras: Any, tmp_path: Path) -> None:
    network = keras.applications.InceptionV3(weights=None)
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.__class__.__name__ == "BatchNormalization":
            size = layer.get_weights()[0].shape
            layer.set_weights([random.normal(0, 0.3, size), random.normal(0, 0.3, size), random.uniform(0.5, 2, size)])
    network.save_weights(tmp_path / "inception.weights.h5")
    model = keras.Model(network.input, network.layers[-2].output)
    given = look((tmp_path / "inception.weights.h5").read_bytes(), "inception.weights.h5")
    name, tensors, preprocessing = to_torchvision(given.keras_weights)
    encoder = build_encoder(name, "pooled", tensors, preprocessing)
    pixels = prepare(photo(0), preprocessing)[None]
    resized = np.asarray(photo(0).resize((299, 299), 0), np.float32)  # load_img's nearest neighbour
    expected = np.asarray(model.predict((resized / 127.5 - 1)[None], verbose=0))
    with torch.inference_mode():
        found = encoder(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", ["Xception", "ResNet50"])
def test_newer_networks_of_keras_give_their_features(keras: Any, tmp_path: Path, name: str) -> None:
    network = getattr(keras.applications, name)(weights=None)
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.__class__.__name__ == "BatchNormalization":
            size = layer.get_weights()[0].shape
            parts = [(0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.5, 2)]
            layer.set_weights([random.uniform(*ends, size) for ends in parts])
        elif name == "ResNet50" and layer.__class__.__name__ == "Conv2D":
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, random.normal(0, 0.2, bias.shape)])
    network.save_weights(tmp_path / "n.weights.h5")
    model = keras.Model(network.input, network.layers[-2].output)
    given = look((tmp_path / "n.weights.h5").read_bytes(), "n.weights.h5")
    found, tensors, preprocessing = to_torchvision(given.keras_weights)
    assert found == f"keras_{name.lower()}"
    encoder = build_encoder(found, "pooled", tensors, preprocessing)
    resized = np.asarray(photo(0).resize((preprocessing.size,) * 2, 0), np.float32)
    module = {"Xception": keras.applications.xception, "ResNet50": keras.applications.resnet50}[name]
    expected = np.asarray(model.predict(module.preprocess_input(resized.copy())[None], verbose=0))
    with torch.inference_mode():
        features = encoder(torch.from_numpy(prepare(photo(0), preprocessing)[None])).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", ["VGG16", "VGG19"])
def test_vgg_of_keras_gives_its_features(keras: Any, tmp_path: Path, name: str) -> None:
    network = getattr(keras.applications, name)(weights=None)
    network.save_weights(tmp_path / "vgg.weights.h5")
    model = keras.Model(network.input, network.layers[-2].output)
    given = look((tmp_path / "vgg.weights.h5").read_bytes(), "vgg.weights.h5")
    found, tensors, preprocessing = to_torchvision(given.keras_weights)
    assert found == name.lower()
    encoder = build_encoder(found, "pooled", tensors, preprocessing)
    resized = np.asarray(photo(0).resize((224, 224), 0), np.float32)
    expected = np.asarray(model.predict(keras.applications.vgg16.preprocess_input(resized.copy())[None], verbose=0))
    with torch.inference_mode():
        features = encoder(torch.from_numpy(prepare(photo(0), preprocessing)[None])).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))

"""Files that TensorFlow itself writes, and what it computes of them. Where it is installed: it is larger than all else
(`pip install tensorflow-cpu tf_keras tf_slim`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.im2txt import PREPROCESSING, adopt_im2txt
from captionkit.adopt.job import gather
from captionkit.adopt.keras_merge import adopt_merge
from captionkit.adopt.tensor_bundle import read_index
from captionkit.images import prepare
from captionkit.storage import Storage
from captionkit.vocabulary import BOS
from tests.adopt.originals import photo
from tests.adopt.test_im2txt import LISTED, UNKNOWN, word_counts
from tests.adopt.test_keras_merge import TEXT, tokenizer, weights

__all__ = ["weights"]
pytestmark = pytest.mark.slow
FEATURES, ROWS, LENGTH = 512, len(TEXT) + 1, 9


@pytest.fixture(scope="module")
def tensorflow() -> Any:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_USE_LEGACY_KERAS="1")
    found = pytest.importorskip("tensorflow")
    pytest.importorskip("tf_keras")
    return found


def keras_network(join: str) -> Any:
    import tf_keras

    layers = tf_keras.layers
    image, words = layers.Input((FEATURES,)), layers.Input((LENGTH,))
    x = layers.Dense(16, activation="relu")(layers.Dropout(0.5)(image))
    y = layers.LSTM(16)(layers.Dropout(0.5)(layers.Embedding(ROWS, 8, mask_zero=True)(words)))
    merged = layers.Dense(12, activation="relu")(getattr(layers, join)()([x, y]))
    model = tf_keras.Model([image, words], layers.Dense(ROWS, activation="softmax")(merged))
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    model.compile(loss="categorical_crossentropy", optimizer="adam")  # which saves what it remembers
    model.fit([np.ones((4, FEATURES)), np.ones((4, LENGTH))], np.full((4, ROWS), 1 / ROWS), verbose=0)
    return model


@pytest.mark.parametrize("join", ["Add", "Concatenate"])
@pytest.mark.parametrize("form", ["SavedModel", "checkpoint"])
def test_tensorflow_and_the_bundle_predict_alike(
    tensorflow: Any, weights: Path, tmp_path: Path, join: str, form: str
) -> None:
    model = keras_network(join)
    if form == "SavedModel":
        model.save(tmp_path / "model", save_format="tf")
    else:
        model.save_weights(tmp_path / "cp.ckpt", save_format="tf")
        (tmp_path / "model.json").write_text(model.to_json())
    (tmp_path / "tokenizer.p").write_bytes(tokenizer())
    found = gather((str(tmp_path),), Storage())
    assert not found.problems
    captioner = adopt_merge(found.given, look(weights.read_bytes(), "w"), "resnet18", (), {}).captioner
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


def test_an_exported_network_is_refused(tensorflow: Any, tmp_path: Path) -> None:
    keras_network("Add").export(tmp_path / "model")
    with pytest.raises(AdoptError, match="without Keras's description"):
        gather((str(tmp_path / "model" / "saved_model.pb"),), Storage())


def test_every_variable_of_a_checkpoint_is_read_as_tensorflow_reads_it(tensorflow: Any, tmp_path: Path) -> None:
    v1 = tensorflow.compat.v1
    random = np.random.default_rng(0)
    with tensorflow.Graph().as_default(), v1.Session() as session:
        for number in range(300):
            shape = (number % 7, 5) if number % 3 else ()
            values = random.normal(size=shape).astype([np.float32, np.float64, np.float16, np.int64][number % 4])
            v1.get_variable(f"InceptionV3/Mixed_{number}/weights", initializer=values)
        v1.get_variable("parted", (10, 4), partitioner=v1.fixed_size_partitioner(3))
        session.run(v1.global_variables_initializer())
        stem = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=5)
        whole = [one for one in v1.global_variables() if not one.op.name.startswith("parted")]
        old = v1.train.Saver(whole, write_version=v1.train.SaverDef.V1).save(session, str(tmp_path / "old"))
    checkpoint = read_index(Path(f"{stem}.index").read_bytes())
    checkpoint.load(lambda ending: Path(stem + ending).read_bytes())
    reader = v1.train.NewCheckpointReader(stem)
    for name in reader.get_variable_to_shape_map():
        if name != "parted":
            np.testing.assert_array_equal(checkpoint.array(name), reader.get_tensor(name))
    with pytest.raises(AdoptError, match="saved in parts"):
        checkpoint.array("parted")
    first = look(Path(old).read_bytes(), "model.ckpt").tensors
    assert len(first) > 100
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.numpy(), reader.get_tensor(name).astype(np.float32))


def test_im2txt_in_tensorflow_and_the_bundle_predict_alike(
    tensorflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph of im2txt's description, with slim's own Inception v3 and TensorFlow's own LSTM cell."""
    slim = pytest.importorskip("tf_slim")
    from tf_keras.src.legacy_tf_layers import normalization

    # Where TensorFlow 2.21 looks for it, which tf_keras 2.21 does not have.
    monkeypatch.setitem(sys.modules, "tf_keras.legacy_tf_layers.normalization", normalization)
    from tf_slim.nets import inception_v3

    v1 = tensorflow.compat.v1
    embed, hidden, rows, ids = 24, 32, 30, [1, 5, 9, UNKNOWN, 0]
    pixels = np.stack([prepare(photo(seed), PREPROCESSING) for seed in range(2)])
    with tensorflow.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        images = v1.placeholder(tensorflow.float32, (2, 299, 299, 3))
        with slim.arg_scope(inception_v3.inception_v3_arg_scope()), v1.variable_scope("InceptionV3") as scope:
            norm = {"is_training": True, "epsilon": 0.001, "decay": 0.0, "updates_collections": None}
            with slim.arg_scope([slim.batch_norm], **norm):
                trained, _ = inception_v3.inception_v3_base(images, scope=scope)  # makes statistics of its own pixels
            scope.reuse_variables()
            with slim.arg_scope([slim.batch_norm], **{**norm, "is_training": False}):
                net, _ = inception_v3.inception_v3_base(images, scope=scope)
        features = tensorflow.reduce_mean(net, (1, 2))
        image = slim.fully_connected(
            features, embed, activation_fn=None, biases_initializer=None, scope="image_embedding"
        )
        with v1.variable_scope("seq_embedding"):
            words = v1.get_variable("map", (rows, embed), initializer=v1.random_uniform_initializer(-1, 1))
        cell = v1.nn.rnn_cell.BasicLSTMCell(hidden, name="basic_lstm_cell")
        outputs = []
        with v1.variable_scope("lstm", initializer=v1.random_uniform_initializer(-0.5, 0.5)):
            _, state = cell(image, cell.zero_state(2, tensorflow.float32))
            for one in ids:
                output, state = cell(tensorflow.gather(words, [one, one]), state)
                outputs.append(output)
        logits = [
            slim.fully_connected(one, rows, activation_fn=None, scope="logits", reuse=bool(number))
            for number, one in enumerate(outputs)
        ]
        session.run(v1.global_variables_initializer())
        random = np.random.default_rng(2)
        for variable in v1.global_variables():
            if variable.op.name.endswith(("beta", "bias", "biases")):
                variable.load(random.normal(0, 0.3, variable.shape.as_list()), session)
        feed = {images: pixels / 127.5 - 1}
        session.run(trained, feed)
        expected_features, expected = session.run([features, tensorflow.stack(logits, 1)], feed)
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=1)
    word_counts(tmp_path / "word_counts.txt")
    found = gather((str(tmp_path),), Storage())
    captioner = adopt_im2txt(found.given, (), {}).captioner
    spelled = {"<S>": "<start>", "</S>": "<end>"}
    new = [captioner.vocabulary.words.index(spelled.get(word, word)) for word in [*LISTED, "<unk>"]]
    with torch.no_grad():
        own = captioner.encode(pixels)
        tokens = torch.tensor([[BOS, new[5], new[9], new[UNKNOWN], new[0]]] * 2)
        logits = captioner.decoder(torch.from_numpy(expected_features), tokens)[..., new]
    scale = float(np.abs(expected_features).max())
    assert scale > 0.01
    np.testing.assert_allclose(own.numpy(), expected_features, rtol=1e-3, atol=1e-3 * scale)
    np.testing.assert_allclose(logits.numpy(), expected[..., : UNKNOWN + 1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("size", [(640, 480), (300, 200), (97, 211), (1201, 90)])
def test_images_are_resized_as_tensorflow_resized_them(tensorflow: Any, size: tuple[int, int]) -> None:
    image = photo(1).resize(size)
    resize = tensorflow.compat.v1.image.resize_images
    whole = resize(np.asarray(image, np.float32) / 255, [346, 346], method=0)
    cut = tensorflow.compat.v1.image.resize_image_with_crop_or_pad(whole, 299, 299)
    found = prepare(image, PREPROCESSING)
    assert float(np.abs(found - cut.numpy() * 255).max()) < 0.51  # pixels are rounded

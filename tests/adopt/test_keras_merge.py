"""The Keras tutorial's merge model: an adopted bundle computes what Keras does."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt
from captionkit.adopt.keras_merge import adopt_merge
from captionkit.adopt.options import AdoptOptions
from captionkit.model.captioner import Captioner
from captionkit.model.encoders import build_encoder
from tests.adopt.originals import WORDS, photo

FEATURES, EMBED, HIDDEN, MERGED = 512, 6, 8, 8
TEXT = ["startseq", "endseq", *WORDS]
ROWS = len(TEXT) + 1
Array = NDArray[np.float32]


class Original:
    """The tutorial's model in numpy: words are padded on the left to a fixed length, and zeros are masked."""

    def __init__(
        self, join: str = "Add", gates: str = "sigmoid", image: int = HIDDEN, seed: int = 0, features: int = FEATURES
    ) -> None:
        random = np.random.default_rng(seed)
        wide = HIDDEN if join == "Add" else HIDDEN + image
        self.join, self.gates, self.length = join, gates, 12

        def draw(*shape: int) -> Array:
            return random.normal(0, 2 / shape[0] ** 0.5, shape).astype(np.float32)

        self.layers = {
            "embedding_1": [draw(ROWS, EMBED)],
            "dense_1": [draw(features, image), draw(image)],
            "lstm_1": [draw(EMBED, 4 * HIDDEN), draw(HIDDEN, 4 * HIDDEN), draw(4 * HIDDEN)],
            "dense_2": [draw(wide, MERGED), draw(MERGED)],
            "dense_3": [draw(MERGED, ROWS), draw(ROWS)],
        }

    def predict(self, features: Array, numbers: list[int], version: int = 2) -> Array:
        """Probabilities of the next word."""
        padded = [0] * (self.length - len(numbers)) + numbers
        kernel, recurrent, bias = self.layers["lstm_1"]
        hidden = cell = np.zeros(HIDDEN, np.float32)
        slope = {2: 0.2, 3: 1 / 6}[version]

        def gate(x: Array) -> Array:
            return np.clip(slope * x + 0.5, 0, 1) if self.gates == "hard_sigmoid" else 1 / (1 + np.exp(-x))

        for number in padded:
            if number == 0:
                continue
            i, f, c, o = np.split(self.layers["embedding_1"][0][number] @ kernel + hidden @ recurrent + bias, 4)
            cell = gate(f) * cell + gate(i) * np.tanh(c)
            hidden = gate(o) * np.tanh(cell)
        image = np.maximum(features @ self.layers["dense_1"][0] + self.layers["dense_1"][1], 0)
        joined = image + hidden if self.join == "Add" else np.concatenate([image, hidden])
        merged = np.maximum(joined @ self.layers["dense_2"][0] + self.layers["dense_2"][1], 0)
        logits = merged @ self.layers["dense_3"][0] + self.layers["dense_3"][1]
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum(), np.float32)

    def config(self, lstm: str = "LSTM") -> dict[str, Any]:
        """As Keras 2 describes it: the words' input first."""

        def layer(kind: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
            nodes = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
            return {"class_name": kind, "config": {"name": name, **config}, "name": name, "inbound_nodes": nodes}

        recurrent = {"activation": "tanh", "recurrent_activation": self.gates} if lstm == "LSTM" else {}
        return {"class_name": "Model", "config": {"name": "model_1", "layers": [
            layer("InputLayer", "input_2", [], batch_input_shape=[None, self.length]),
            layer("InputLayer", "input_1", [], batch_input_shape=[None, len(self.layers["dense_1"][0])]),
            layer("Embedding", "embedding_1", ["input_2"], mask_zero=True, input_dim=ROWS),
            layer("Dropout", "dropout_1", ["input_1"], rate=0.5),
            layer("Dropout", "dropout_2", ["embedding_1"], rate=0.5),
            layer("Dense", "dense_1", ["dropout_1"], activation="relu"),
            layer(lstm, "lstm_1", ["dropout_2"], return_sequences=False, **recurrent),
            layer(self.join, "add_1", ["dense_1", "lstm_1"]),
            layer("Dense", "dense_2", ["add_1"], activation="relu"),
            layer("Dense", "dense_3", ["dense_2"], activation="softmax"),
        ]}}  # fmt: skip

    def save_h5(self, path: Path, *, described: bool = True, version: str = "2.2.4", lstm: str = "LSTM") -> Path:
        """The layout of Keras 2's `model.save`, or of its `save_weights`."""
        with h5py.File(path, "w") as file:
            root = file.create_group("model_weights") if described else file
            if described:
                file.attrs["model_config"] = json.dumps(self.config(lstm)).encode()
                file.attrs["keras_version"] = version.encode()
            root.attrs["layer_names"] = [name.encode() for name in self.layers]
            for name, arrays in self.layers.items():
                group = root.create_group(name)
                paths = [f"{name}/part_{number}:0" for number in range(len(arrays))]
                group.attrs["weight_names"] = [one.encode() for one in paths]
                for one, array in zip(paths, arrays, strict=True):
                    group.create_dataset(one, data=array)
        return path


class Tokenizer:
    """Stands in for Keras's, under another name of its module."""


def tokenizer(module: str = "keras_preprocessing.text", words: list[str] = TEXT, num_words: int | None = None) -> bytes:
    """A pickled Tokenizer of a module that is not installed."""
    one = Tokenizer()
    docs = {word: 90 if word in words[:2] else 7 for word in words}
    vars(one).update(word_index={word: number for number, word in enumerate(words, 1)}, word_docs=docs)
    vars(one).update(document_count=90, num_words=num_words, oov_token=None)
    return pickle.dumps(one, 2).replace(b"c" + __name__.encode() + b"\n", b"c" + module.encode() + b"\n")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet of torchvision's, whose 512 features stand for an encoder's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "resnet18.pth"
    torch.save({**build_encoder("resnet18", weights="none").network.state_dict()}, path)
    return path


def convert(weights: Path, *files: bytes, **options: Any) -> Captioner:
    given = [look(data, f"file {number}") for number, data in enumerate(files)]
    return adopt_merge(given, look(weights.read_bytes(), "w"), "resnet18", options.get("markers", ()), {}).captioner


def assert_same(captioner: Captioner, original: Original, version: int = 2, words: list[str] = TEXT) -> None:
    features = np.abs(np.random.default_rng(1).normal(size=(3, FEATURES))).astype(np.float32)
    spelled = {"startseq": "<start>", "endseq": "<end>", "start": "<start>", "end": "<end>"}
    numbers = [1, 7, 3, 15]
    vocabulary = captioner.vocabulary.words
    new = [vocabulary.index(spelled.get(word, word)) for word in words]
    tokens = torch.tensor([[new[number - 1] for number in numbers]] * 3)
    with torch.no_grad():
        logits = captioner.decoder.cpu()(torch.from_numpy(features), tokens)
    found = torch.softmax(logits, dim=-1)[..., new].numpy()
    for row in range(3):
        for length in range(1, 5):
            expected = original.predict(features[row], numbers[:length], version)
            np.testing.assert_allclose(found[row, length - 1], expected[1 : len(words) + 1], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("join", ["Add", "Concatenate"])
@pytest.mark.parametrize(("gates", "version"), [("sigmoid", 2), ("hard_sigmoid", 2), ("hard_sigmoid", 3)])
def test_a_saved_network_computes_what_it_computed(
    weights: Path, tmp_path: Path, join: str, gates: str, version: int
) -> None:
    original = Original(join, gates, image=HIDDEN if join == "Add" else 5)
    data = original.save_h5(tmp_path / "m.h5", version=f"{version}.2.4").read_bytes()
    assert_same(convert(weights, data, tokenizer()), original, version)


def test_weights_and_description_in_two_files(weights: Path, tmp_path: Path) -> None:
    original = Original()
    alone = original.save_h5(tmp_path / "w.h5", described=False).read_bytes()
    described = json.dumps(json.dumps(original.config())).encode()  # to_json() dumped once more
    index = pickle.dumps(dict(enumerate(TEXT, 1)))
    assert_same(convert(weights, index, alone, described), original)
    with pytest.raises(AdoptError, match="description is missing"):
        convert(weights, index, alone)
    with pytest.raises(AdoptError, match="weights are missing"):
        convert(weights, index, described)


def test_a_cudnn_lstm_is_converted(weights: Path, tmp_path: Path) -> None:
    """The inverse of Keras's own conversion, on the arrays of an ordinary LSTM."""
    original = Original()
    kernel, recurrent, bias = original.layers["lstm_1"]
    original.layers["lstm_1"] = [
        np.hstack([gate.T.reshape(gate.shape) for gate in np.hsplit(kernel, 4)]),
        np.hstack([gate.T for gate in np.hsplit(recurrent, 4)]),
        np.concatenate([bias * 0.3, bias * 0.7]),
    ]
    data = original.save_h5(tmp_path / "m.h5", lstm="CuDNNLSTM").read_bytes()
    original.layers["lstm_1"] = [kernel, recurrent, bias]
    assert_same(convert(weights, data, tokenizer()), original)


def test_stripped_markers_and_spare_words(weights: Path, tmp_path: Path) -> None:
    original = Original()
    data = original.save_h5(tmp_path / "m.h5").read_bytes()
    words = ["start", "end", *WORDS]
    assert_same(convert(weights, data, tokenizer("keras.src.legacy.preprocessing.text", words)), original, words=words)
    assert_same(convert(weights, data, tokenizer(words=[*TEXT, "rare", "rarer"], num_words=ROWS)), original)
    with pytest.raises(AdoptError, match=r"23 rows for words.*24"):
        convert(weights, data, tokenizer(words=[*TEXT, "rare"]))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"class_name": "Lambda", "name": "dropout_1"}, "'dropout_1' is a Lambda"),
        ({"class_name": "GRU", "name": "lstm_1"}, "joins 'Dense', 'GRU'"),
        ({"class_name": "Multiply", "name": "add_1"}, "'add_1' is a Multiply"),
    ],
)
def test_other_networks_are_refused_by_the_layers_name(
    weights: Path, tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    original = Original()
    config = original.config()
    next(layer for layer in config["config"]["layers"] if layer["name"] == change["name"]).update(change)
    data = original.save_h5(tmp_path / "w.h5", described=False).read_bytes()
    with pytest.raises(AdoptError, match=complaint):
        convert(weights, data, json.dumps(config).encode(), tokenizer())


def test_hdf5_files_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    Original().save_h5(secret, described=False)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense_1"]
        file["dense_1"] = h5py.ExternalLink(str(secret), "/dense_1")
    with pytest.raises(AdoptError, match="link in its place"):
        look((tmp_path / "link.h5").read_bytes(), "m")
    data = secret.read_bytes()
    with pytest.raises(AdoptError, match="cut or damaged: it needs"):
        look(data[: len(data) // 2], "m")


def test_the_command_adopts_a_network(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.p").write_bytes(tokenizer())
    Original().save_h5(tmp_path / "model.h5")
    photo(0).save(tmp_path / "photo.png")
    lines: list[str] = []
    adopted, _ = adopt(
        AdoptOptions(
            (str(tmp_path / "tokenizer.p"), str(tmp_path / "model.h5")), str(tmp_path / "bundle"), encoder="resnet18",
            encoder_weights=str(weights), try_images=(str(tmp_path / "photo.png"),),
        ),
        lines.append,
    )  # fmt: skip
    assert adopted.kind == "keras-merge"
    assert any("stands in for Keras's" in line for line in lines)
    loaded = Captioner.load(tmp_path / "bundle", device="cpu")
    assert "stands in" in loaded.provenance["adopted"]["approximated"][0]
    assert loaded.preprocessing.interpolation == "nearest"


def test_a_file_that_is_not_as_keras_writes_it_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("layers/dense/vars")["kernel"] = [1.0, 2.0]
    with pytest.raises(AdoptError, match="not as Keras writes it"):
        look((tmp_path / "m.h5").read_bytes(), "m.h5")


def test_features_without_an_encoder_are_captioned_and_compared(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.p").write_bytes(tokenizer())
    original = Original()
    original.save_h5(tmp_path / "model.h5")
    photo(0).save(tmp_path / "photo.png")
    features = np.abs(np.random.default_rng(3).normal(size=(4, FEATURES))).astype(np.float32)
    names = ["photo.png", "b.jpg", "c.jpg", "d.jpg"]
    lines: list[str] = []
    for by_name in (dict(zip(names, features, strict=True)), {"a.jpg": np.zeros(256, np.float32)}):
        (tmp_path / "encoded_train_images.pkl").write_bytes(pickle.dumps(by_name))
        options = AdoptOptions(
            (str(tmp_path / "tokenizer.p"), str(tmp_path / "model.h5"), str(tmp_path / "encoded_train_images.pkl")),
            str(tmp_path / "bundle"), encoder="resnet18", encoder_weights=str(weights),
            try_images=(str(tmp_path / "photo.png"),),
        )  # fmt: skip
        adopt(options, lines.append)
    words = [1]
    for _ in range(19):  # the tutorial's loop
        probabilities = original.predict(features[1], words)
        probabilities[[0, 1, 2][: 3 if len(words) == 1 else 2]] = 0  # captionkit's search: at least one word
        words.append(int(probabilities.argmax()))
        if words[-1] == 2:
            break
    said = " ".join(TEXT[number - 1] for number in words[1:] if number != 2)
    assert f"b.jpg, by its features: {said}" in lines
    cosine = [line for line in lines if "have a cosine of at least" in line]
    assert len(cosine) == 1
    assert any("256 values, and this decoder reads pooled ones of 512" in line for line in lines)
    with pytest.raises(AdoptError, match="features of images are neither"):
        adopt(AdoptOptions((str(tmp_path / "encoded_train_images.pkl"),), str(tmp_path / "b")), print)

"""im2txt's captioner: an adopted bundle says what the original says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.im2txt import PREPROCESSING, adopt_im2txt
from captionkit.adopt.job import adopt
from captionkit.adopt.options import AdoptOptions
from captionkit.images import prepare
from captionkit.model.captioner import Captioner
from captionkit.vocabulary import BOS
from tests.adopt.keras_networks import Network, run_slim_inception
from tests.adopt.originals import WORDS, photo
from tests.adopt.tensor_bundles import write_checkpoint

EMBED, HIDDEN, ROWS = 12, 16, 30
LISTED = ["a", "<S>", "</S>", *WORDS[1:]]
UNKNOWN = len(LISTED)
SMALL = {"size": 79, "resize": 91}
"""Sides of the images in pixels: those of a quick test."""
SEEDS = (0, 1, 2, 3)
"""Of photos."""
CELL = ("lstm/basic_lstm_cell/kernel", "lstm/basic_lstm_cell/bias")
Array = Any


def middle(image: Image.Image, size: int, resize: int) -> Array:
    """Of the whole image, resized as TensorFlow 1 did, the middle: each pixel from the four around its place."""
    values = np.asarray(image, np.float64)
    found = np.zeros((size, size, 3))
    first = (resize - size) // 2
    for row in range(size):
        y = (first + row) * image.height / resize
        above, below, down = int(y), min(int(y) + 1, image.height - 1), y - int(y)
        for column in range(size):
            x = (first + column) * image.width / resize
            before, behind, across = int(x), min(int(x) + 1, image.width - 1), x - int(x)
            upper = values[above, before] * (1 - across) + values[above, behind] * across
            lower = values[below, before] * (1 - across) + values[below, behind] * across
            found[row, column] = upper * (1 - down) + lower * down
    return found.round()


class Original:
    """Google's Show and Tell: slim's Inception v3, then TensorFlow's BasicLSTMCell, in numpy."""

    def __init__(self, pixels: Callable[[Image.Image], Array], cell: tuple[str, str] = CELL) -> None:
        random = np.random.default_rng(5)
        net = Network(4)
        self.cell = cell
        images = torch.from_numpy(np.stack([pixels(photo(seed)) for seed in SEEDS]).astype(np.float32))
        images = images.permute(0, 3, 1, 2) / 127.5 - 1
        with torch.inference_mode():
            self.features = run_slim_inception(net, images).numpy()

        def draw(*shape: int) -> Array:
            return random.normal(0, 2 / shape[0] ** 0.5, shape).astype(np.float32)

        self.variables = {
            "image_embedding/weights": draw(2048, EMBED),
            "seq_embedding/map": draw(ROWS, EMBED),
            cell[0]: draw(EMBED + HIDDEN, 4 * HIDDEN),
            cell[1]: draw(4 * HIDDEN),
            "logits/weights": 3 * draw(HIDDEN, ROWS),
            "logits/biases": draw(ROWS),
            "global_step": np.int64(1000),
            "OptimizeLoss/learning_rate": np.float32(0.1),
        }
        self.variables["logits/biases"][UNKNOWN:] -= 30  # what has no word is never said
        self.variables["logits/biases"][1] -= 30
        for scope, arrays in net.layers.items():
            parts = ("weights", "BatchNorm/beta", "BatchNorm/moving_mean", "BatchNorm/moving_variance")
            self.variables |= {f"InceptionV3/{scope}/{part}": one for part, one in zip(parts, arrays, strict=True)}

    def step(self, inputs: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        hidden, cell = state
        gates = np.concatenate([inputs, hidden]) @ self.variables[self.cell[0]] + self.variables[self.cell[1]]
        i, j, f, o = np.split(gates, 4)

        def sigmoid(x: Array) -> Array:
            return 1 / (1 + np.exp(-x))

        cell = cell * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        hidden = np.tanh(cell) * sigmoid(o)
        logits = hidden @ self.variables["logits/weights"] + self.variables["logits/biases"]
        return logits, (hidden, cell)

    def begin(self, features: Array) -> tuple[Array, Array]:
        zeros = np.zeros(HIDDEN, np.float32)
        return self.step(features @ self.variables["image_embedding/weights"], (zeros, zeros))[1]

    def logits(self, features: Array, ids: list[int]) -> Array:
        """After each of the words."""
        state, found = self.begin(features), []
        for one in ids:
            logits, state = self.step(self.variables["seq_embedding/map"][one], state)
            found.append(logits)
        return np.stack(found)

    def say(self, features: Array) -> str:
        """Greedy search: `CaptionGenerator` with a beam of one."""
        state, ids = self.begin(features), [1]
        while len(ids) < 20 and ids[-1] != 2:
            logits, state = self.step(self.variables["seq_embedding/map"][ids[-1]], state)
            ids.append(int(logits.argmax()))
        return " ".join(LISTED[one] for one in ids[1:] if one != 2)


def word_counts(path: Path) -> Path:
    path.write_text("".join(f"{word} {1000 - 7 * number}\n" for number, word in enumerate(LISTED)))
    return path


def given_of(original: Original, name: str = "model.ckpt-1") -> Given:
    variables = {key: value for key, value in original.variables.items() if value.dtype.kind == "f"}
    return Given(name, "checkpoint", tensors={key: torch.from_numpy(np.array(one)) for key, one in variables.items()})


def words_given(tmp_path: Path) -> Given:
    return look(word_counts(tmp_path / "word_counts.txt").read_bytes(), "word_counts.txt")


def assert_same(captioner: Captioner, original: Original, tolerance: float) -> None:
    spelled = {"<S>": "<start>", "</S>": "<end>"}
    new = [captioner.vocabulary.words.index(spelled.get(word, word)) for word in [*LISTED, "<unk>"]]
    said = set()
    for number, seed in enumerate(SEEDS):
        pixels = prepare(photo(seed), captioner.preprocessing)[None]
        with torch.no_grad():
            features = captioner.encode(pixels)
            own = torch.from_numpy(original.features[number : number + 1])
            torch.testing.assert_close(features, own, rtol=tolerance, atol=tolerance * float(own.abs().max()))
            tokens = torch.tensor([[BOS, new[5], new[9], new[UNKNOWN], new[0]]])
            logits = captioner.decoder(own, tokens)[0]
        expected = original.logits(original.features[number], [1, 5, 9, UNKNOWN, 0])[:, : UNKNOWN + 1]
        np.testing.assert_allclose(logits[:, new].numpy(), expected, rtol=2e-4, atol=2e-4)
        text = captioner.caption([photo(seed)], beam=1, max_length=19, min_length=0, banned=())[0].text or ""
        # By the captioner's own features: a long way of greedy steps parts where two words are as likely.
        assert text == original.say(features[0].numpy())
        said.add(text)
    assert len(said) > 1  # else the encoder could be anything


@pytest.fixture(scope="module")
def original() -> Original:
    return Original(lambda image: middle(image, **SMALL))


def test_a_checkpoint_says_what_it_said(original: Original, tmp_path: Path) -> None:
    adopted = adopt_im2txt([given_of(original), words_given(tmp_path)], (), SMALL)
    assert adopted.captioner.preprocessing.mode == "squash_crop"
    captioner = adopted.captioner
    captioner.save(tmp_path / "bundle")
    assert_same(Captioner.load(tmp_path / "bundle", dtype="float32", device="cpu"), original, 2e-3)
    assert any(f"{UNKNOWN + 1} words of word_counts.txt; {ROWS - UNKNOWN - 1} rows" in line for line in adopted.exact)


def test_the_middle_is_cut_out_of_the_whole_image() -> None:
    for seed, size in ((0, (300, 200)), (1, (97, 113)), (2, (700, 31))):
        image = photo(seed).resize(size)
        expected, found = middle(image, 40, 46), prepare(image, replace(PREPROCESSING, size=40, resize=46))
        assert float(np.abs(found - expected).max()) <= 1  # where a half is rounded
        assert float(np.abs(found - expected).mean()) < 0.01


@pytest.mark.parametrize(
    "cell",
    [
        ("lstm/basic_lstm_cell/weights", "lstm/basic_lstm_cell/biases"),
        ("lstm/BasicLSTMCell/Linear/Matrix", "lstm/BasicLSTMCell/Linear/Bias"),
    ],
)
def test_older_names_of_the_lstm_are_known(original: Original, tmp_path: Path, cell: tuple[str, str]) -> None:
    given = given_of(original)
    for old, new in zip(CELL, cell, strict=True):
        given.tensors[new] = given.tensors.pop(old)
    decoder = adopt_im2txt([given, words_given(tmp_path)], (), SMALL).captioner.decoder.cpu()
    features = original.features[0]
    with torch.no_grad():
        logits = decoder(torch.from_numpy(features[None]), torch.tensor([[BOS]]))[0, 0]
    assert float(logits.max()) == pytest.approx(float(original.logits(features, [1])[0].max()), rel=1e-4)


def test_what_is_missing_is_named(original: Original, tmp_path: Path) -> None:
    words = words_given(tmp_path)
    alone = given_of(original)
    alone.tensors = {key: one for key, one in alone.tensors.items() if not key.startswith("InceptionV3/Mixed_7")}
    with pytest.raises(AdoptError, match="convolutions of Inception v3, of 94"):
        adopt_im2txt([alone, words], (), {})
    without = given_of(original)
    del without.tensors["logits/biases"]
    with pytest.raises(AdoptError, match="has no variable logits/biases"):
        adopt_im2txt([without, words], (), {})
    more = given_of(original)
    more.tensors |= {
        f"{CELL[0]}/Adam": more.tensors[CELL[0]],
        "beta1_power": torch.ones(()),
        "lstm/attend/kernel": torch.ones(2),
    }
    with pytest.raises(AdoptError, match="do not have: lstm/attend/kernel; it computes something else"):
        adopt_im2txt([more, words], (), {})
    with pytest.raises(AdoptError, match="vocabulary is missing"):
        adopt_im2txt([given_of(original)], (), {})
    with pytest.raises(AdoptError, match=r"model.ckpt-1, model.ckpt-2 hold .* give one"):
        adopt_im2txt([given_of(original), given_of(original, "model.ckpt-2"), words], (), {})
    many = look("".join(f"w{n} {n + 100}\n" for n in range(ROWS + 1)).encode(), "other.txt")
    with pytest.raises(AdoptError, match=rf"{ROWS} rows for words.*other.txt has {ROWS + 1}"):
        adopt_im2txt([given_of(original), many], (), {})


@pytest.mark.slow
def test_a_folder_with_checkpoint_and_words_is_adopted_at_full_size(tmp_path: Path) -> None:
    original = Original(lambda image: prepare(image, PREPROCESSING))
    write_checkpoint(tmp_path / "train" / "model.ckpt-1000", original.variables)
    (tmp_path / "train" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000"\n')
    word_counts(tmp_path / "train" / "word_counts.txt")
    lines: list[str] = []
    adopted, _ = adopt(AdoptOptions((str(tmp_path / "train"),), str(tmp_path / "bundle")), lines.append)
    assert adopted.kind == "im2txt"
    assert_same(Captioner.load(tmp_path / "bundle", dtype="float32", device="cpu"), original, 2e-3)

"""im2txt, Google's Show and Tell (github.com/tensorflow/models, im2txt; Vinyals et al. 2016, arXiv:1609.06647).

A checkpoint holds slim's Inception v3, a projection of its features without bias, and an LSTM with the word vectors and
the output layer. `word_counts.txt` has a word a line; the number after the last is the unknown word's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captionkit.adopt.captioners import Adopted, change_preprocessing, load_decoder
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.keras_encoders import inception_keys, inception_layer
from captionkit.adopt.parts import choose_words
from captionkit.adopt.words import set_markers, to_rows
from captionkit.images import Preprocessing
from captionkit.images.types import TENSORFLOW_BILINEAR
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import ShowTell
from captionkit.model.encoders import EncoderError, build_encoder
from captionkit.model.encoders.networks import KERAS_INCEPTION

PREPROCESSING = Preprocessing(299, 346, TENSORFLOW_BILINEAR, "squash_crop", (0.5,) * 3, (0.5,) * 3)
"""The whole image as 346 × 346, and of that the middle 299 × 299."""
_WORDS = "seq_embedding/map"
_OTHERS = ("image_embedding/weights", "logits/weights", "logits/biases")
_CELLS = (
    ("lstm/basic_lstm_cell/kernel", "lstm/basic_lstm_cell/bias"),
    ("lstm/basic_lstm_cell/weights", "lstm/basic_lstm_cell/biases"),
    ("lstm/BasicLSTMCell/Linear/Matrix", "lstm/BasicLSTMCell/Linear/Bias"),
)
"""Weights and bias of the LSTM, as TensorFlow 1.2, 1.0 and 0.12 call them."""
FORGET_BIAS = 1.0
"""What TensorFlow's BasicLSTMCell adds to the forget gate at each step; its weights do not have it."""
_NETWORK = "InceptionV3/"
_TRAINING = ("OptimizeLoss/", "global_step", "beta1_power", "beta2_power")
"""How the variables begin that only training needs; an optimizer's others are called as those that they belong to."""


def is_im2txt(given: Sequence[Given]) -> bool:
    """Whether a checkpoint of im2txt's is among these."""
    return any(_WORDS in one.tensors for one in given)


def adopt_im2txt(given: Sequence[Given], markers: tuple[str, ...], preprocessing: Mapping[str, Any]) -> Adopted:
    """Put im2txt's captioner together.

    Args:
        markers: see `set_markers`.
        preprocessing: fields of `Preprocessing` over the project's own.

    Raises:
        AdoptError: a part is missing, or parts do not fit.
    """
    files = [one for one in given if _WORDS in one.tensors]
    if len(files) != 1:
        names = ", ".join(one.name for one in files) or "none of the files"
        raise AdoptError(
            f"{names} hold{'s' if not files else ''} a captioner of im2txt; give one checkpoint with {_WORDS}"
        )
    file, tensors = files[0], files[0].tensors
    embedding = tensors[_WORDS]
    cell = next((names for names in _CELLS if names[0] in tensors), _CELLS[0])
    image, output, output_bias, kernel, bias = (_take(tensors, name, file.name) for name in (*_OTHERS, *cell))
    embed_size, hidden = image.shape[1], kernel.shape[1] // 4
    if kernel.shape != (embed_size + hidden, 4 * hidden):
        raise AdoptError(
            f"{file.name}: {cell[0]} is {tuple(kernel.shape)}, which is no LSTM that reads {embed_size} values"
        )
    network = _inception(tensors, file.name)
    _refuse_others(tensors, {_WORDS, *_OTHERS, *cell}, file.name)
    name, words = choose_words(
        {one.name: one.words for one in given if one.words}, len(embedding), file.name, at_most=True
    )
    if "unk" not in words.markers and words.rows < len(embedding):
        words.words[words.rows] = "<UNK>"
        words.markers["unk"] = words.rows - 1
    set_markers(words, markers)
    order = to_rows(words, len(embedding), len(output_bias))
    try:
        encoder = build_encoder(KERAS_INCEPTION, "pooled", network, change_preprocessing(PREPROCESSING, preprocessing))
    except EncoderError as err:
        raise AdoptError(f"{file.name}: {err}") from err
    decoder = ShowTell(
        ShowTell.Config(
            vocab_size=len(order.vocabulary),
            feature_size=encoder.feature_size,
            embed_size=embed_size,
            hidden_size=hidden,
            dropout=0.0,
        )
    )
    weight, out = order.out(output.T, output_bias)
    weights, gates = _gates(kernel).T, _gates(bias)
    gates[hidden : 2 * hidden] += FORGET_BIAS
    state = {
        "image.weight": image.T,
        "image.bias": torch.zeros(embed_size),
        "words.weight": order.embed(embedding),
        "lstm.weight_ih_l0": weights[:, :embed_size],
        "lstm.weight_hh_l0": weights[:, embed_size:],
        "lstm.bias_ih_l0": gates,
        "lstm.bias_hh_l0": torch.zeros(4 * hidden),
        "output.weight": weight,
        "output.bias": out,
    }
    load_decoder(decoder, state, file.name)
    adopted = Adopted(Captioner(encoder, decoder, order.vocabulary), "im2txt", notes=words.notes)
    rest = len(embedding) - len(words.words)
    adopted.exact = [
        f"Inception v3 of {file.name}, with slim's arithmetic, and its projection",
        f"decoder of {file.name}: {cell[0]}, forget bias {FORGET_BIAS}",
        f"{len(words.words):,} words of {name}" + (f"; {rest:,} rows of the checkpoint have no word" if rest else ""),
    ]
    return adopted


def _take(tensors: Mapping[str, Tensor], name: str, file: str) -> Tensor:
    if name not in tensors:
        raise AdoptError(
            f"{file} has no variable {name}, which im2txt's captioners have; it has {', '.join(list(tensors)[:6])}"
        )
    return tensors[name]


def _refuse_others(tensors: Mapping[str, Tensor], used: set[str], file: str) -> None:
    kept = (_NETWORK, *_TRAINING, *(f"{name}/" for name in used))
    if others := [name for name in tensors if name not in used and not name.startswith(kept)]:
        raise AdoptError(
            f"{file} has variables that im2txt's captioners do not have: {', '.join(others[:6])}; it computes "
            "something else"
        )


def _gates(tensor: Tensor) -> Tensor:
    """The last axis in PyTorch's order: input, forget, candidate, output. TensorFlow has the candidate second."""
    i, candidate, forget, out = tensor.chunk(4, dim=-1)
    return torch.cat([i, forget, candidate, out], dim=-1)


def _inception(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """slim's Inception v3 under torchvision's keys. Sorted by name, its layers stand as torchvision has them."""
    layers = sorted(
        name.removesuffix("/weights") for name in tensors if re.fullmatch(_NETWORK + r"(Conv2d|Mixed)_.*/weights", name)
    )
    keys = inception_keys()
    if len(layers) != len(keys):
        raise AdoptError(
            f"{file} has {len(layers)} convolutions of Inception v3, of {len(keys)}: give a checkpoint that im2txt's "
            "training has written, which holds the network too"
        )
    ours: dict[str, Tensor] = {}
    for layer, key in zip(layers, keys, strict=True):
        kernel, *norm = (
            _take(tensors, f"{layer}/{part}", file)
            for part in ("weights", "BatchNorm/beta", "BatchNorm/moving_mean", "BatchNorm/moving_variance")
        )
        ours |= inception_layer(key, kernel, tensors.get(f"{layer}/BatchNorm/gamma"), *norm)
    return ours

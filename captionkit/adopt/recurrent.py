"""The PyTorch tutorial's captioner, and those made after it: a CNN, a linear layer, an LSTM, an output layer.

Yunjey Choi's tutorial of Show and Tell (github.com/yunjey/pytorch-tutorial, 03-advanced/image_captioning): the features
are ``bn(linear(resnet(image)))``, the first input of the LSTM; the words follow. Udacity's project has no batch norm; a
well-known variant has Inception v3 and a ReLU. Keys are each author's own, so layers are found by shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.resnets import Backbone

_LSTM = re.compile(
    r"(?P<prefix>.*?)(?P<part>weight_ih|weight_hh|bias_ih|bias_hh)(_l(?P<layer>\d+))?(?P<back>_reverse)?$"
)
BATCH_NORM_EPS = 1e-5
"""PyTorch's default, which no captioner of this kind changes."""


@dataclass(frozen=True)
class Projection:
    """From features to the LSTM's first input: weight (E, D) and bias (E,), a batch norm counted in."""

    weight: Tensor
    bias: Tensor
    has_norm: bool


@dataclass(frozen=True)
class LstmDecoder:
    """What was found of a decoder. Shapes: embedding (V, E), output (W, H), bias (W,), layers as PyTorch's LSTM."""

    embedding: Tensor
    output: Tensor
    bias: Tensor | None
    layers: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    names: dict[str, str]


def is_decoder(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is a recurrent layer among these tensors."""
    return any(_LSTM.match(name) for name in tensors)


def find_projection(rest: Mapping[str, Tensor], backbone: Backbone) -> Projection:
    """The linear layer after a network, and the batch norm after that.

    Args:
        rest: the encoder's tensors but the network's.

    Raises:
        AdoptError: none, or tensors beside them.
    """
    rest = {name: tensor for name, tensor in rest.items() if not name.endswith("num_batches_tracked")}
    matrices = {name: tensor for name, tensor in rest.items() if tensor.ndim == 2}
    if backbone.fc is not None and not matrices:
        weight, bias = backbone.fc
        used: set[str] = set()
    elif len(matrices) == 1:
        (name, weight), *_ = matrices.items()
        zeros = weight.new_zeros(len(weight))
        bias = rest.get(f"{name.removesuffix('weight')}bias", zeros)
        used = {name, f"{name.removesuffix('weight')}bias"}
    else:
        shapes = ", ".join(_shown(matrices)) or "none"
        raise AdoptError(
            f"after the {backbone.name} one linear layer was expected, to the size of the word vectors; found: {shapes}"
        )
    norms = [name.removesuffix("running_mean") for name in rest if name.endswith("running_mean")]
    has_norm = False
    for norm in norms:
        parts = [rest.get(f"{norm}{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, scale, shift = (None if part is None else part.double() for part in parts)
        if mean is None or variance is None or len(norms) > 1 or mean.shape != bias.shape:
            raise AdoptError(f"after the {backbone.name} one batch norm was expected; found: {', '.join(_shown(rest))}")
        factor = torch.rsqrt(variance + BATCH_NORM_EPS) * (1.0 if scale is None else scale)
        weight = (weight.double() * factor.unsqueeze(1)).float()
        bias = ((bias.double() - mean) * factor + (0.0 if shift is None else shift)).float()
        used |= {f"{norm}{part}" for part in ("running_mean", "running_var", "weight", "bias")}
        has_norm = True
    _refuse_others(rest, used, "the encoder")
    return Projection(weight.float(), bias.float(), has_norm)


def find_decoder(tensors: Mapping[str, Tensor]) -> LstmDecoder:
    """Embedding, LSTM and output layer, by shape.

    Raises:
        AdoptError: one of them is not there, is another kind of layer, or there are tensors beside them.
    """
    parts: dict[int, dict[str, Tensor]] = {}
    used: set[str] = set()
    names: dict[str, str] = {}
    for name, tensor in tensors.items():
        if not (match := _LSTM.match(name)):
            continue
        if match["back"]:
            raise AdoptError(f"{name}: an LSTM that reads in both directions writes no captions")
        layer = parts.setdefault(int(match["layer"] or 0), {})
        if match["part"] in layer:
            raise AdoptError(
                f"the decoder has two recurrent layers beside each other ({name}), which is another family"
            )
        layer[match["part"]] = tensor
        names["LSTM"] = match["prefix"].rstrip(".") or name
        used.add(name)
    if sorted(parts) != list(range(len(parts))) or not parts:
        raise AdoptError(f"the decoder has no LSTM, or not all of its layers: {', '.join(_shown(tensors))}")
    layers = [_layer(parts[number], names["LSTM"]) for number in sorted(parts)]
    hidden, inputs = layers[0][1].shape[1], layers[0][0].shape[1]
    rest = {name: tensor for name, tensor in tensors.items() if name not in used}
    matrices = {name: tensor for name, tensor in rest.items() if tensor.ndim == 2}
    biases = {name: f"{name.removesuffix('weight')}bias" for name in matrices}
    with_bias = [name for name, bias in biases.items() if bias in rest and matrices[name].shape[1] == hidden]
    without = [name for name, bias in biases.items() if bias not in rest and matrices[name].shape[1] == inputs]
    if not with_bias:  # an output layer without bias: told from the embedding by its width, or by its name
        with_bias = [name for name in without if matrices[name].shape[1] == hidden and "emb" not in name.lower()]
        without = [name for name in without if name not in with_bias]
    if len(with_bias) != 1 or len(without) != 1:
        raise AdoptError(
            f"beside an LSTM that reads {inputs} values and keeps {hidden}, one embedding (words, {inputs}) and one "
            f"output layer (words, {hidden}) were expected; found: {', '.join(_shown(rest))}. If it is this kind of "
            "captioner under unusual names, --rename helps; if the image joins in another way, it is another kind"
        )
    output, embedding = with_bias[0], without[0]
    names |= {"embedding": embedding, "output": output}
    _refuse_others(rest, {output, biases[output], embedding}, "the decoder")
    bias = rest.get(biases[output])
    return LstmDecoder(
        matrices[embedding].float(), matrices[output].float(), None if bias is None else bias.float(), layers, names
    )


def _layer(parts: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from_input, from_hidden = parts.get("weight_ih"), parts.get("weight_hh")
    if from_input is None or from_hidden is None or from_hidden.ndim != 2 or from_input.ndim != 2:
        raise AdoptError(f"the decoder's LSTM {name} lacks weights")
    gates, hidden = from_hidden.shape
    if gates == 3 * hidden:
        raise AdoptError(f"{name} is a GRU (3 × {hidden} rows); captionkit adopts captioners with LSTMs")
    if gates != 4 * hidden or len(from_input) != gates:
        raise AdoptError(f"{name} is no LSTM: {', '.join(_shown(parts))}")
    zeros = from_hidden.new_zeros(gates)
    biases = (parts.get("bias_ih", zeros), parts.get("bias_hh", zeros))
    if any(bias.shape != (gates,) for bias in biases):
        raise AdoptError(f"{name} has biases that do not fit: {', '.join(_shown(parts))}")
    return from_input.float(), from_hidden.float(), biases[0].float(), biases[1].float()


def _shown(tensors: Mapping[str, Tensor]) -> list[str]:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    return [*shown[:12], f"and {len(shown) - 12} more"] if len(shown) > 12 else shown


def _refuse_others(tensors: Mapping[str, Tensor], used: set[str], what: str) -> None:
    others = {name: tensor for name, tensor in tensors.items() if name not in used}
    if others:
        raise AdoptError(
            f"{what} has tensors that this kind of captioner does not have: {', '.join(_shown(others))}; it computes "
            "something else"
        )

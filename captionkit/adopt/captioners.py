"""Captioners put together from their parts, for each project that captionkit knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.parts import Parts, choose_words
from captionkit.adopt.recurrent import find_decoder, find_projection
from captionkit.adopt.words import set_markers, to_rows
from captionkit.images import Preprocessing
from captionkit.images.types import IMAGENET_MEAN, IMAGENET_STD
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import ShowTell
from captionkit.model.encoders import EncoderError, build_encoder

TUTORIAL = Preprocessing(size=224, resize=224, interpolation="lanczos", mode="squash")
"""The whole image, as the tutorial's sample.py does it."""
UDACITY = Preprocessing(size=224, resize=256, interpolation="bilinear", mode="crop")
"""torchvision's usual Resize and CenterCrop; the project leaves this to its students."""


def _twice_normalised() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation equal to (p - 0.5) / 0.5 and then torchvision's `transform_input`, which the variant with
    Inception v3 applies one after the other."""
    pairs = list(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    means = [0.5 - 0.5 * (mean - 0.5) / std for mean, std in pairs]
    stds = [0.25 / std for _, std in pairs]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


INCEPTION = Preprocessing(299, 299, "bilinear", "squash", *_twice_normalised())


@dataclass
class Adopted:
    """A captioner made of others' files.

    Attributes:
        kind: of which project.
        exact: what computes as in the original.
        approximated: what does not, and why.
        notes: what is odd in the files.
    """

    captioner: Captioner
    kind: str
    exact: list[str] = field(default_factory=list)
    approximated: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def adopt_show_tell(parts: Parts, kind: str, markers: tuple[str, ...], preprocessing: Mapping[str, Any]) -> Adopted:
    """The PyTorch tutorial's captioner, Udacity's, or the variant with Inception v3.

    Args:
        kind: "auto" or one of these; see `AdoptOptions`.
        markers: see `set_markers`.
        preprocessing: fields of `Preprocessing` over the project's own.

    Raises:
        AdoptError: a part is missing, or parts do not fit.
    """
    if not parts.decoder:
        raise AdoptError(
            f"the decoder is missing: {parts.encoder_name or 'no file'} holds an encoder alone. It is a PyTorch file "
            "with an embedding, an LSTM and an output layer (decoder-5-3000.pkl in the tutorial)"
        )
    if parts.backbone is None:
        raise AdoptError(
            f"the encoder is missing: {parts.decoder_name} holds a decoder alone. It is a PyTorch file with a ResNet "
            "or Inception v3 and a linear layer (encoder-5-3000.pkl in the tutorial)"
        )
    layout = find_decoder(parts.decoder)
    rows = len(layout.embedding)
    if len(layout.output) != rows:
        raise AdoptError(
            f"{parts.decoder_name}: the embedding has {rows:,} rows and the output layer {len(layout.output):,}; in "
            "this kind of captioner both are the vocabulary's size"
        )
    projection = find_projection(parts.encoder, parts.backbone)
    if len(projection.weight) != layout.layers[0][0].shape[1]:
        raise AdoptError(
            f"{parts.encoder_name} gives {len(projection.weight)} values and the LSTM of {parts.decoder_name} reads "
            f"{layout.layers[0][0].shape[1]}: encoder and decoder are of different captioners"
        )
    name, words = choose_words(parts.words, rows, parts.decoder_name)
    set_markers(words, markers)
    order = to_rows(words, rows, rows)
    if kind == "auto":
        kind = "inception" if parts.backbone.name == "inception_v3" else "udacity" if words.udacity else "tutorial"
    usual = {"inception": INCEPTION, "udacity": UDACITY, "tutorial": TUTORIAL}[kind]
    prepared = change_preprocessing(usual, preprocessing)
    try:
        encoder = build_encoder(parts.backbone.name, "pooled", parts.backbone.tensors, prepared)
    except EncoderError as err:
        raise AdoptError(f"{parts.encoder_name}: {err}") from err
    if encoder.feature_size != projection.weight.shape[1]:
        raise AdoptError(
            f"{parts.encoder_name}: the {parts.backbone.name} gives {encoder.feature_size} values and the linear layer "
            f"after it reads {projection.weight.shape[1]}"
        )
    decoder = ShowTell(
        ShowTell.Config(
            vocab_size=len(order.vocabulary),
            feature_size=encoder.feature_size,
            embed_size=layout.embedding.shape[1],
            hidden_size=layout.output.shape[1],
            layers=len(layout.layers),
            dropout=0.0,
            image_relu=kind == "inception",
        )
    )
    weight, bias = order.out(layout.output, layout.bias)
    state = {
        "image.weight": projection.weight,
        "image.bias": projection.bias,
        "words.weight": order.embed(layout.embedding),
        "output.weight": weight,
        "output.bias": bias,
    }
    for number, tensors in enumerate(layout.layers):
        for part, tensor in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), tensors, strict=True):
            state[f"lstm.{part}_l{number}"] = tensor
    load_decoder(decoder, state, parts.decoder_name)
    adopted = Adopted(Captioner(encoder, decoder, order.vocabulary), kind, notes=words.notes)
    after = "linear layer and batch norm" if projection.has_norm else "linear layer"
    adopted.exact = [
        f"{parts.backbone.name} of {parts.encoder_name}, and its {after}",
        f"decoder of {parts.decoder_name}: " + ", ".join(f"{what} {key}" for what, key in layout.names.items()),
        f"{len(words.words):,} words of {name}",
    ]
    if kind == "udacity" and not preprocessing:
        adopted.approximated = [
            "preprocessing: the project leaves it to its students; this is 256, centre 224, bilinear"
        ]
    return adopted


@torch.no_grad()
def load_decoder(decoder: torch.nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Give a decoder its weights, in fp32.

    Raises:
        AdoptError: one does not fit; the message has both sizes.
    """
    own = decoder.state_dict()
    for key, tensor in state.items():
        if own[key].shape != tensor.shape:
            raise AdoptError(f"{name}: {key} is {tuple(tensor.shape)}, and {tuple(own[key].shape)} would fit the rest")
    missing = set(own) - set(state) - {"feature_mean", "feature_scale"}
    if missing:
        raise AdoptError(f"{name} lacks {', '.join(sorted(missing))}")
    decoder.load_state_dict({**own, **{key: tensor.float().contiguous() for key, tensor in state.items()}})


def change_preprocessing(usual: Preprocessing, changes: Mapping[str, Any]) -> Preprocessing:
    """A preprocessing with some of its fields changed.

    Raises:
        AdoptError: no such field or value.
    """
    try:
        return Preprocessing.from_json({**usual.to_json(), **changes})
    except ValueError as err:
        raise AdoptError(f"--preprocessing: {err}") from err


def read_preprocessing(given: tuple[str, ...]) -> dict[str, Any]:
    """`--preprocessing`'s name=value as fields of `Preprocessing`.

    Raises:
        AdoptError: not name=value, or no numbers where numbers belong.
    """
    fields: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        try:
            if name in ("size", "resize"):
                fields[name] = int(value)
            elif name in ("mean", "std"):
                fields[name] = [float(number) for number in value.split(",")]
            elif equals:
                fields[name] = value
            else:
                raise ValueError("it takes name=value")
        except ValueError as err:
            raise AdoptError(f"--preprocessing {one}: {err}") from err
    if "size" in fields:
        fields.setdefault("resize", fields["size"])
    return fields

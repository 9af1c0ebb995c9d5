"""The CNNs of keras.applications as torchvision's networks: the same arrays in another order."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.keras_files import Arrays
from captionkit.images import Preprocessing
from captionkit.model.encoders.networks import KERAS_INCEPTION

INCEPTION = Preprocessing(size=299, resize=299, interpolation="nearest", mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
"""Keras's: the whole image by nearest neighbour (`load_img`'s default), pixels from -1 to 1."""
_VGG_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
VGG = Preprocessing(
    size=224, resize=224, interpolation="nearest", mode="squash", mean=_VGG_MEAN, std=(1 / 255, 1 / 255, 1 / 255)
)
"""Keras's "caffe" mode: pixels from 0 to 255 minus the mean. Its order BGR is in the first layer's weights."""
_VGG_LAYERS = (2, 2, 3, 3, 3)
"""Convolutions of each block of VGG16."""


def is_encoder(arrays: Arrays) -> bool:
    """Whether these are the weights of a network that `to_torchvision` knows."""
    return _is_vgg(arrays) or _is_inception(arrays)


def to_torchvision(arrays: Arrays) -> tuple[str, dict[str, Tensor], Preprocessing]:
    """Name, tensors under torchvision's keys, and preprocessing of a network of keras.applications.

    Raises:
        AdoptError: it is another network.
    """
    if _is_vgg(arrays):
        return "vgg16", _vgg(arrays), VGG
    if _is_inception(arrays):
        return KERAS_INCEPTION, _inception(arrays), INCEPTION
    raise AdoptError(
        "--encoder-weights: of keras.applications captionkit knows VGG16 (with its top) and InceptionV3; these weights "
        f"have the layers {', '.join(list(arrays)[:6])} …"
    )


def _is_vgg(arrays: Arrays) -> bool:
    return {"block1_conv1", "block5_conv3", "fc1", "fc2"} <= arrays.keys() and "block5_conv4" not in arrays


def _is_inception(arrays: Arrays) -> bool:
    return len(_numbered(arrays, "conv2d")) == 94 and len(_numbered(arrays, "batch_normalization")) == 94


def _numbered(arrays: Arrays, kind: str) -> list[str]:
    """Layers named "conv2d", "conv2d_1" … in the order of their numbers, which is that in which they were made."""
    found = {name: re.fullmatch(rf"{kind}(?:_v1)?(?:_(\d+))?", name) for name in arrays}
    return sorted((name for name in found if found[name]), key=lambda name: int((found[name] or [0, 0])[1] or 0))


def _convolution(kernel: Any) -> Tensor:
    """(height, width, in, out) as (out, in, height, width)."""
    return torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()


def _vgg(arrays: Arrays) -> dict[str, Tensor]:
    names = [f"block{block}_conv{n}" for block, count in enumerate(_VGG_LAYERS, 1) for n in range(1, count + 1)]
    with torch.device("meta"):
        keys = [key for key in models.vgg16().features.state_dict() if key.endswith("weight")]
    tensors: dict[str, Tensor] = {}
    for name, key in zip(names, keys, strict=True):
        kernel, bias = arrays[name]
        tensors[f"features.{key}"] = _convolution(kernel)
        tensors[f"features.{key.removesuffix('weight')}bias"] = torch.from_numpy(bias)
    tensors["features.0.weight"] = tensors["features.0.weight"].flip(1).contiguous()  # BGR
    for name, number in (("fc1", 0), ("fc2", 3)):
        kernel, bias = arrays[name]
        weight = torch.from_numpy(kernel).T
        if name == "fc1":  # Keras flattens rows, columns, channels; PyTorch channels first
            weight = weight.reshape(-1, 7, 7, 512).permute(0, 3, 1, 2).flatten(1)
        tensors[f"classifier.{number}.weight"] = weight.contiguous()
        tensors[f"classifier.{number}.bias"] = torch.from_numpy(bias)
    return tensors


def _inception(arrays: Arrays) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    keys = [name.removesuffix(".conv") for name, _ in network.named_modules() if name.endswith(".conv")]
    pairs = zip(_numbered(arrays, "conv2d"), _numbered(arrays, "batch_normalization"), strict=True)
    tensors: dict[str, Tensor] = {}
    for key, (conv, norm) in zip(keys, pairs, strict=True):
        kernel, beta, mean, variance = arrays[conv][0], *arrays[norm][-3:]
        tensors[f"{key}.conv.weight"] = _convolution(kernel)
        scale = torch.from_numpy(arrays[norm][0]) if len(arrays[norm]) == 4 else torch.ones(len(mean))
        values = (scale, *map(torch.from_numpy, (beta, mean, variance)))
        for part, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
            tensors[f"{key}.bn.{part}"] = value
    return tensors

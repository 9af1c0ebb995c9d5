"""A residual network small enough to be trained from random weights on two CPU cores within the hour."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

SIZE: Final = 96
"""Side of the images it is made for, in pixels."""
FEATURES: Final = 346
"""Length of its feature vectors, each value between 0 and 1: one for each fact of `captionkit.training.embedded`."""
_WIDTHS: Final = (32, 64, 128, 160)
_CELLS: Final = 3
"""Features are read off this many rows and columns of the last map, so that they tell where things are."""


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut around them; where the width changes, height and width are halved.

    torchvision's BasicBlock, without torchvision: to import it would take longer than all else that captioning with
    the embedded captioner imports.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride == 2:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps (N, inputs, H, W) → (N, outputs, H, W), or half as high and wide."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        out: Tensor = self.relu(residual + self.downsample(maps))
        return out


class TinyResNet(nn.Module):
    """ResNet-10 (He et al. 2016), narrow, that sees patches of four pixels: (N, 3, H, W) → logits (N, num_classes).

    Its features are attributes: before its last layer stands a sigmoid, so that each can mean how sure something is.
    Dense 3 × 3 convolutions, where networks made for phones have depthwise ones: at equal time for a training step
    on a CPU they do several times the arithmetic.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, _WIDTHS[0], kernel_size=8, stride=4, padding=2, bias=False),
            nn.BatchNorm2d(_WIDTHS[0]),
            nn.ReLU(),
        )
        self.layer1 = Block(_WIDTHS[0], _WIDTHS[0])
        self.layer2 = Block(_WIDTHS[0], _WIDTHS[1])
        self.layer3 = Block(_WIDTHS[1], _WIDTHS[2])
        self.layer4 = Block(_WIDTHS[2], _WIDTHS[3])
        self.pool = nn.AdaptiveAvgPool2d(_CELLS)
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(_WIDTHS[3] * _CELLS**2, 384), nn.ReLU(), nn.Linear(384, FEATURES), nn.Sigmoid()
        )
        self.fc = nn.Linear(FEATURES, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised pixels (N, 3, H, W) → logits (N, num_classes)."""
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(inputs)))))
        logits: Tensor = self.fc(self.features(self.pool(maps)))
        return logits

"""The encoder: a network without its classifier, and the normalisation before it."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from captionkit.errors import UsageError
from captionkit.images import Preprocessing

Output = Literal["pooled", "grid"]
NO_NETWORK: Final = "none"
"""The name of what stands in an encoder's place where there is none."""


class EncoderError(UsageError):
    """An encoder that cannot be built as asked. The message says what is wrong and what would do."""


class Encoder(nn.Module):
    """A network without its classifier, and the normalisation before it. Made by `build_encoder`.

    Attributes:
        config: JSON-able arguments of `build_encoder`, for an encoder of the same shape.
        preprocessing: the geometry and normalisation of its images.
        feature_size: D, the length of a feature vector.
        network: its state dict has torchvision's own keys, without those of the classifier.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, config: dict[str, Any], preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.preprocessing = preprocessing
        std = torch.tensor(preprocessing.std).view(3, 1, 1)
        # Not in the state dict: they belong to the preprocessing, which is stored as JSON.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -torch.tensor(preprocessing.mean).view(3, 1, 1) / std, persistent=False)
        self.eval()
        self.feature_size = self._measure()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 (N, H, W, 3), RGB → features (N, D) or (N, P, D), in the dtype of the weights.

        Raises:
            EncoderError: it has no network (`NO_NETWORK`).
        """
        self.check()
        # A permuted view of NHWC is channels_last already: no copy, and the layout that is fastest for convolutions.
        return self._extract(pixels.permute(0, 3, 1, 2).to(self.scale.dtype).mul_(self.scale).add_(self.shift))

    def check(self) -> None:
        """Raise EncoderError where there is no network, and images cannot be seen."""
        if self.config["name"] == NO_NETWORK:
            raise EncoderError(
                "this captioner has no encoder: it captions features that somebody computed "
                "(Captioner.caption_features), not images. Adopt it again with --encoder-weights, the file of the "
                "encoder that computed them"
            )

    def train_only(self, layers: Sequence[str]) -> None:
        """Freeze all weights but those of some layers, by torchvision's names ("layer4", "features.12").

        Raises:
            EncoderError: a name without any weight.
        """
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for layer in layers:
            weights = [p for name, p in self.network.named_parameters() if f"{name}.".startswith(f"{layer}.")]
            if not weights:
                parts = dict.fromkeys(name.rpartition(".")[0] for name, _ in self.network.named_parameters())
                raise EncoderError(f"{self.config['name']} has no weights called {layer!r}; it has: {', '.join(parts)}")
            for parameter in weights:
                parameter.requires_grad_(True)

    def _extract(self, inputs: Tensor) -> Tensor:
        """Normalised pixels (N, 3, H, W) → features."""
        features = self.network(inputs)
        if isinstance(features, dict):
            maps_NDhw = features["map"]
            if self.config.get("grid"):
                maps_NDhw = adaptive_avg_pool2d(maps_NDhw, self.config["grid"])
            grid_NPD: Tensor = maps_NDhw.permute(0, 2, 3, 1).flatten(1, 2)
            return grid_NPD if self.config["output"] == "grid" else grid_NPD.mean(dim=1)
        return torch.flatten(features, 1)

    @torch.no_grad()
    def _measure(self) -> int:
        """D, from the features of an empty image; it costs nothing while the weights are on "meta"."""
        if self.config["name"] == NO_NETWORK:
            return int(self.config["features"])
        name, size = self.config["name"], self.preprocessing.size
        device = next(self.network.parameters()).device
        try:
            features = self._extract(torch.zeros(1, 3, size, size, device=device))
        # The input is too small for some layer, or a layer gives no map.
        except (RuntimeError, ValueError) as error:
            layer = f" up to layer {self.config['layer']!r}" if self.config["layer"] else ""
            raise EncoderError(f"{name} cannot read images of {size}×{size}{layer}: {error}") from error
        return features.shape[-1]

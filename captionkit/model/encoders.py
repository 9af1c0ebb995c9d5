"""Convolutional networks that turn pixels into features: any of torchvision's classification CNNs by name, and ours.

"pooled" features (N, D) are what the network's last linear layer reads: the 4096 values of VGG16's FC-2, 2048
of Inception v3 and ResNet-50; of SqueezeNet, which has no linear layer, the average of its last map, 512.
"grid" features (N, P, D) are the last feature map before it is pooled, one vector per place, row by row; averaged to
fewer places where asked (adaptive pooling, as in Rennie et al. 2017, arXiv:1612.00563).
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from captionkit.images import Preprocessing
from captionkit.model import tiny_resnet

Output = Literal["pooled", "grid"]

_TRANSFORMERS = ("vit_", "swin_", "maxvit")
_LAST_MAPS = ("layer4", "conv5", "inception5b", "Mixed_7c", "trunk_output", "layers", "features")
"""How torchvision's families call the module that gives the last feature map."""
_OWN = "tiny_resnet"
"""The one network that is not torchvision's: `captionkit.model.tiny_resnet`."""
_PORTED = ("googlenet", "inception_v3")
"""Their weights come from TensorFlow, have auxiliary heads, and want pixels from -1 to 1."""


class EncoderError(ValueError):
    """An encoder that cannot be built as asked. The message says what is wrong and what would do."""


class Encoder(nn.Module):
    """A network without its classifier, and the normalisation in front of it. Made by `build_encoder`.

    Attributes:
        config: JSON-able arguments with which `build_encoder` makes its like.
        preprocessing: the geometry and normalisation it wants its images in.
        feature_size: D, the length of a feature vector.
        network: its state dict has torchvision's own keys, less those of the classifier.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, config: dict[str, Any], preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.preprocessing = preprocessing
        std = torch.tensor(preprocessing.std).view(3, 1, 1)
        # Not in the state dict: they belong to the preprocessing, which is kept as JSON.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -torch.tensor(preprocessing.mean).view(3, 1, 1) / std, persistent=False)
        self.eval()
        self.feature_size = self._measure()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 (N, H, W, 3), RGB → features (N, D) or (N, P, D), in the dtype of the weights."""
        # NHWC bytes seen as NCHW are channels_last already: no copy, and what convolutions like best.
        return self._extract(pixels.permute(0, 3, 1, 2).to(self.scale.dtype).mul_(self.scale).add_(self.shift))

    def train_only(self, layers: Sequence[str]) -> None:
        """Freeze all weights but those of some layers, by torchvision's names ("layer4", "features.12").

        Raises:
            EncoderError: a name without any weight.
        """
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for layer in layers:
            found = [p for name, p in self.network.named_parameters() if f"{name}.".startswith(f"{layer}.")]
            if not found:
                parts = dict.fromkeys(name.rpartition(".")[0] for name, _ in self.network.named_parameters())
                raise EncoderError(f"{self.config['name']} has no weights called {layer!r}; it has: {', '.join(parts)}")
            for parameter in found:
                parameter.requires_grad_(True)

    def _extract(self, inputs: Tensor) -> Tensor:
        features = self.network(inputs)
        if isinstance(features, dict):
            features = features["map"]
            if self.config.get("grid"):
                features = adaptive_avg_pool2d(features, self.config["grid"])
            grid: Tensor = features.permute(0, 2, 3, 1).flatten(1, 2)
            return grid if self.config["output"] == "grid" else grid.mean(dim=1)
        return torch.flatten(features, 1)

    @torch.no_grad()
    def _measure(self) -> int:
        """The length of a feature vector, seen on an empty image; free while the weights are on "meta"."""
        name, size = self.config["name"], self.preprocessing.size
        device = next(self.network.parameters()).device
        try:
            features = self._extract(torch.zeros(1, 3, size, size, device=device))
        # An input too small for some layer; a layer that gives no map.
        except (RuntimeError, ValueError) as error:
            layer = f" up to layer {self.config['layer']!r}" if self.config["layer"] else ""
            raise EncoderError(f"{name} cannot read images of {size}×{size}{layer}: {error}") from error
        return features.shape[-1]


def _torchvision() -> ModuleType:
    """torchvision.models, imported when a network of its is wanted: that takes longer than torch does (it imports the
    compiler), in every process, and the embedded captioner does without."""
    from torchvision import models

    return cast(ModuleType, models)


def encoder_names() -> list[str]:
    """The networks that can be encoders: torchvision's classification CNNs, and `tiny_resnet`."""
    models = _torchvision()
    return [_OWN, *(name for name in models.list_models(module=models) if not name.startswith(_TRANSFORMERS))]


def default_preprocessing(name: str, size: int | None = None) -> Preprocessing:
    """The preprocessing of a network's pretrained weights; with `size`, the same at another size.

    Raises:
        EncoderError: no encoder has this name.
    """
    _check_name(name)
    if name == _OWN:
        # The whole picture, not its middle.
        side = size or tiny_resnet.SIZE
        return Preprocessing(size=side, resize=side, mode="squash")
    # Read from the description of the weights: nothing is downloaded.
    transforms = _torchvision().get_model_weights(name).DEFAULT.transforms()
    own_size, resize = transforms.crop_size[0], transforms.resize_size[0]
    # What torchvision calls transform_input, and applies after the usual normalisation, comes to this.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in _PORTED else (transforms.mean, transforms.std)
    return Preprocessing(
        size=size or own_size,
        resize=round(resize * size / own_size) if size else resize,
        interpolation=transforms.interpolation.value,
        mean=tuple(mean),
        std=tuple(std),
    )


def build_encoder(
    name: str,
    output: Output = "pooled",
    weights: str | Mapping[str, Tensor] = "pretrained",
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    grid: int | None = None,
) -> Encoder:
    """Build an encoder, in fp32, channels_last and eval mode.

    Args:
        name: as torchvision names its models: "resnet50", "vgg16", "squeezenet1_1" …
        output: "pooled" or "grid".
        weights: "pretrained" (torchvision's best, downloaded once), "none" (random), or a state dict with
            torchvision's keys, of any float dtype, with the classifier's keys or without.
        preprocessing: another geometry or normalisation than `default_preprocessing`'s.
        layer: read the feature map after this layer ("layer3", "features.28") instead of the last one.
        grid: average the feature map to this many places a side.

    Raises:
        EncoderError: unknown or unsuited name, layer or output; weights that cannot be downloaded or are not
            of this network; images too small for it.
    """
    _check_name(name)
    if output not in ("pooled", "grid"):
        raise EncoderError(f'an encoder\'s output is "pooled" or "grid", not {output!r}')
    if grid is not None and (output != "grid" or grid < 1):
        raise EncoderError(f"grid={grid} is for grid features, and at least 1")
    if isinstance(weights, str) and weights not in ("pretrained", "none"):
        raise EncoderError(f'weights are "pretrained", "none" or a state dict, not {weights!r}')
    state = _download(name) if weights == "pretrained" else weights
    network = _build(name) if state == "none" else _build_empty(name)
    everything = set(network.state_dict())
    config = {"name": name, "output": output, "layer": layer, **({"grid": grid} if grid else {})}
    encoder = Encoder(_behead(network, name, output, layer), config, preprocessing or default_preprocessing(name))
    if not isinstance(state, str):
        _load(encoder.network, name, state, everything)
    return encoder.to(memory_format=torch.channels_last)


def _check_name(name: str) -> None:
    if name == _OWN or name in (names := encoder_names()):
        return
    models = _torchvision()
    if name in models.list_models(module=models):
        raise EncoderError(f"{name} is a transformer; encoders are convolutional networks: {', '.join(names)}")
    close = difflib.get_close_matches(name, names, n=4) or names
    raise EncoderError(f"torchvision has no classification network {name!r}; there are: {', '.join(close)}")


def _build(name: str) -> nn.Module:
    """The whole network with random weights, without auxiliary heads."""
    if name == _OWN:
        return tiny_resnet.TinyResNet()
    options = {"aux_logits": False, "init_weights": True} if name in _PORTED else {}
    network: nn.Module = _torchvision().get_model(name, weights=None, **options)
    return network


def _build_empty(name: str) -> nn.Module:
    """The whole network without weights: drawing 138 million random ones for VGG16 takes seconds."""
    if name == _OWN:  # small; and to run a network without weights, PyTorch imports its compiler
        return _build(name)
    try:
        with torch.device("meta"):
            return _build(name)
    except NotImplementedError:  # RegNet computes its widths with tensors while it is built
        return _build(name)


def _download(name: str) -> dict[str, Tensor]:
    if name == _OWN:
        raise EncoderError(f"{name} has no pretrained weights: give a file with them, or start from random weights")
    try:
        # Through the model and not `get_state_dict`: torchvision renames the keys of its oldest files there.
        state: dict[str, Tensor] = _torchvision().get_model(name, weights="DEFAULT").state_dict()
    except (OSError, RuntimeError) as error:  # no network, no disk; a file that does not have its checksum
        raise EncoderError(
            f"torchvision's weights for {name} cannot be downloaded ({error}); "
            f"give a file with them, or start from random weights"
        ) from error
    return state


def _behead(network: nn.Module, name: str, output: Output, layer: str | None) -> nn.Module:
    """Take the classifier off, or everything after the feature map."""
    if output == "pooled" and layer is None and not name.startswith("squeezenet"):
        at = "fc" if hasattr(network, "fc") else "classifier"
        head = getattr(network, at)
        if isinstance(head, nn.Sequential):
            head[-1] = nn.Identity()
        else:
            setattr(network, at, nn.Identity())
        return network
    layer = layer or _last_map(network, name)
    from torchvision.models.feature_extraction import create_feature_extractor  # late, as `_torchvision` is

    try:
        extractor: nn.Module = create_feature_extractor(network, {layer: "map"})
    except ValueError as error:
        parts = ", ".join(child for child, _ in network.named_children())
        raise EncoderError(f"{name} has no layer {layer!r}; its parts are: {parts}") from error
    return extractor


def _last_map(network: nn.Module, name: str) -> str:
    if name.startswith("densenet"):
        return "relu"  # called after `features`, and no module
    layer = next(child for child in _LAST_MAPS if hasattr(network, child))
    module = getattr(network, layer)
    if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.MaxPool2d):
        # Of VGG the 14 × 14 places that Show, Attend and Tell (Xu et al. 2015) reads, not the 7 × 7 pooled.
        return f"{layer}.{len(module) - 2}"
    return layer


def _load(network: nn.Module, name: str, weights: Mapping[str, Tensor], everything: set[str]) -> None:
    """Put weights into a beheaded network; `everything` are the keys it had with its classifier."""
    if name.startswith("densenet"):  # torchvision's own files have keys of an older PyTorch: norm.1 for norm1
        weights = {re.sub(r"(\.denselayer\d+\.\w+)\.(\d\.)", r"\1\2", key): t for key, t in weights.items()}
    # Changed in place, as its metadata tells MNASNet that the weights are not those of an old version.
    state = network.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which nothing reads.
    counters = {key: torch.zeros((), dtype=torch.int64) for key in state if key.endswith("num_batches_tracked")}
    weights = {**counters, **weights}
    known = {*everything, *(key for key in weights if name in _PORTED and key.lower().startswith("aux"))}
    wrong = {
        "tensors missing": [key for key in state if key not in weights],
        "tensors too many": [key for key in weights if key not in known],
    }
    said = [f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in wrong.items() if keys]
    for key, own in state.items() if not said else ():
        if weights[key].shape != own.shape:
            said.append(f"{key} is {tuple(weights[key].shape)}, not {tuple(own.shape)}")
        state[key] = weights[key].detach().to(own.dtype, copy=True)
    if said:
        raise EncoderError(f"these are not the weights of {name}: {' and '.join(said[:3])}")
    network.load_state_dict(state, assign=True)

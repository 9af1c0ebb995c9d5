"""timm's convolutional networks as encoders, where timm is installed: `timm/resnet50.a1_in1k`.

Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from captionkit.images import Preprocessing
from captionkit.model.encoders.encoder import EncoderError, Output

PREFIX: Final = "timm/"
_NAME: Final = re.compile(r"[\w.\-]+")
"""What timm's names are made of. Others (`hf-hub:…`, `local-dir:…`) would make it load whatever they point to."""


def _timm() -> ModuleType:
    try:
        import timm  # takes a second, and is an extra
    except ImportError as err:
        raise EncoderError(
            f"{PREFIX}… are networks of timm, which is not installed: pip install captionkit[timm]"
        ) from err
    return timm  # type: ignore[no-any-return]


def check_timm_name(name: str) -> None:
    """Raise EncoderError for what is no model of timm."""
    timm, model = _timm(), name.removeprefix(PREFIX)
    if not _NAME.fullmatch(model) or not timm.is_model(model):
        close = timm.list_models(f"*{model}*", pretrained=True)[:4] if _NAME.fullmatch(model) else []
        hint = f"; close to it: {', '.join(PREFIX + one for one in close)}" if close else ""
        raise EncoderError(f"timm has no model {model!r}{hint}")


def timm_preprocessing(name: str, size: int | None) -> Preprocessing:
    """The preprocessing of a model's weights, as timm records it; with `size`, the same at another size.

    Raises:
        EncoderError: there is no such model.
    """
    check_timm_name(name)
    config = _timm().models.get_pretrained_cfg(name.removeprefix(PREFIX))
    if config is None:
        raise EncoderError(f"timm records no preprocessing for {name}: name it with its weights, as resnet50.a1_in1k")
    side = size or config.input_size[-1]
    return Preprocessing(
        size=side,
        resize=math.floor(side / config.crop_pct),
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def build_timm_network(name: str) -> nn.Module:
    """The complete network with random weights.

    Raises:
        EncoderError: there is no such model.
    """
    check_timm_name(name)
    network: nn.Module = _timm().create_model(name.removeprefix(PREFIX), pretrained=False)
    return network


def download_timm_weights(name: str) -> Mapping[str, Tensor]:
    """A model's weights by timm's own client, from its cache once they are there.

    Raises:
        EncoderError: there are none, or they cannot be downloaded.
    """
    check_timm_name(name)
    try:
        state: dict[str, Tensor] = _timm().create_model(name.removeprefix(PREFIX), pretrained=True).state_dict()
    except Exception as err:  # what a hub's client raises depends on the client
        why = " ".join(str(err).split())[:200] or type(err).__name__
        raise EncoderError(
            f"timm's weights for {name} cannot be downloaded ({why}); give a file with them, or start from random ones"
        ) from err
    return state


def cut_timm_network(network: Any, name: str, output: Output, layer: str | None, size: int) -> nn.Module:
    """The network without its classifier: pooled features, or the last feature map as {"map": (N, D, h, w)}.

    Raises:
        EncoderError: `layer` is given, or the network gives no feature map.
    """
    if layer is not None:
        raise EncoderError(f"{name}: of timm's networks only the last feature map can be read, not layer {layer!r}")
    network.eval()
    try:
        with torch.inference_mode():
            shape = network.forward_features(torch.zeros(1, 3, size, size)).shape
    except (RuntimeError, ValueError, AssertionError) as err:  # too small, or of one size alone
        raise EncoderError(f"{name} cannot read images of {size}×{size}: {err}") from err
    # (1, D, h, h): transformers give tokens, (1, P, D), or maps with their channels last.
    if len(shape) != 4 or shape[2] != shape[3]:
        raise EncoderError(f"{name} is no convolutional network: its features are {tuple(shape)}, not one map")
    network.reset_classifier(0)
    if output == "grid":
        # A class of its own, and not a module around it, so that the weights keep timm's names.
        kind = type(network)
        network.__class__ = type(kind.__name__, (kind,), {"forward": _last_map})
    cut: nn.Module = network
    return cut


def _last_map(network: Any, inputs: Tensor) -> dict[str, Tensor]:
    return {"map": network.forward_features(inputs)}

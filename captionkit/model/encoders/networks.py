"""The networks by name: torchvision's, EfficientNet-Lite, and tiny_resnet."""

import difflib
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from captionkit.model.encoders.efficientnet_lite import SIZES, EfficientNetLite
from captionkit.model.encoders.encoder import EncoderError
from captionkit.model.encoders.timm_models import PREFIX, build_timm_network, check_timm_name
from captionkit.model.encoders.tiny_resnet import TinyResNet
from captionkit.model.encoders.xception import Xception

TINY_RESNET: Final = "tiny_resnet"
"""The embedded captioner's network."""
KERAS_INCEPTION: Final = "keras_inception_v3"
"""torchvision's Inception v3 with TensorFlow's arithmetic, for weights of keras.applications and of slim."""
KERAS_XCEPTION: Final = "keras_xception"
KERAS_RESNETS: Final = ("keras_resnet50", "keras_resnet101", "keras_resnet152")
"""torchvision's ResNets as keras.applications has them: a stage's first block steps by 2 in its first convolution."""
KERAS: Final = (KERAS_INCEPTION, KERAS_XCEPTION, *KERAS_RESNETS)
"""Networks for weights of keras.applications; nothing else has weights for them."""
CAFFE: Final = "caffe_"
"""Begins the names of Caffe's ResNets (He et al. 2016, github.com/KaimingHe/deep-residual-networks): torchvision's keys
and shapes, but each stage's stride in another convolution, and other edges of the first pooling."""
CAFFE_RESNETS: Final = tuple(f"{CAFFE}resnet{depth}" for depth in (18, 34, 50, 101, 152))
PORTED: Final = ("googlenet", "inception_v3", KERAS_INCEPTION)
"""Networks whose weights come from TensorFlow, have auxiliary heads, and expect pixels from -1 to 1."""
_TRANSFORMERS: Final = ("vit_", "swin_", "maxvit")


def torchvision_models() -> ModuleType:
    """torchvision.models, imported only if one of its networks is used: importing it takes longer than importing torch
    (it imports the compiler), in every process, and the embedded captioner does not need it."""
    from torchvision import models

    return cast(ModuleType, models)


def encoder_names() -> list[str]:
    """The networks that can be encoders: torchvision's classification CNNs, EfficientNet-Lite, and `tiny_resnet`."""
    models = torchvision_models()
    return [
        TINY_RESNET,
        *SIZES,
        *(name for name in models.list_models(module=models) if not name.startswith(_TRANSFORMERS)),
    ]


def check_name(name: str) -> None:
    """Raise EncoderError for a name, as a bundle gives it, that is neither in `encoder_names` nor timm's."""
    if not isinstance(name, str):
        raise EncoderError(f"an encoder's name is text, not {name!r}")
    if name.startswith(PREFIX):
        check_timm_name(name)
        return
    if name in (TINY_RESNET, *KERAS, *CAFFE_RESNETS, *SIZES) or name in (names := encoder_names()):
        return
    models = torchvision_models()
    if name in models.list_models(module=models):
        raise EncoderError(f"{name} is a transformer; encoders are convolutional networks: {', '.join(names)}")
    close = difflib.get_close_matches(name, names, n=4) or names
    raise EncoderError(f"there is no classification network {name!r}; close to it: {', '.join(close)}")


def build_network(name: str) -> nn.Module:
    """The complete network with random weights, without auxiliary heads."""
    if name == TINY_RESNET:
        return TinyResNet()
    if name in SIZES:
        return EfficientNetLite(name)
    if name.startswith(PREFIX):
        return build_timm_network(name)
    if name == KERAS_XCEPTION:
        return Xception()
    if name in KERAS_RESNETS:
        return _stride_first(build_network(name.removeprefix("keras_")))
    if name == KERAS_INCEPTION:
        inception = build_network("inception_v3")
        for module in inception.modules():
            if isinstance(branch := getattr(module, "branch_pool", None), nn.Module):
                branch.register_forward_pre_hook(_average_without_padding)
        return inception
    if name in CAFFE_RESNETS:
        resnet: Any = _stride_first(build_network(name.removeprefix(CAFFE)))
        resnet.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        return cast(nn.Module, resnet)
    options = {"aux_logits": False, "init_weights": True} if name in PORTED else {}
    network: nn.Module = torchvision_models().get_model(name, weights=None, **options)
    return network


def _stride_first(resnet: Any) -> nn.Module:
    """torchvision's ResNet with the stride of each stage in its first block's first convolution."""
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return cast(nn.Module, resnet)


def _average_without_padding(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Of a map averaged 3 × 3 with padding of zeros, the averages of what is no padding, as TensorFlow has them."""
    (maps_NDhw,) = inputs
    return (maps_NDhw / avg_pool2d(maps_NDhw.new_ones(1, 1, *maps_NDhw.shape[2:]), 3, 1, 1),)


def build_empty_network(name: str) -> nn.Module:
    """The complete network without weights: drawing 138 million random ones for VGG16 takes seconds."""
    if name.startswith(PREFIX):  # some compute with numbers while they are built, which "meta" has none of
        return build_network(name)
    if name == TINY_RESNET:  # small; and to run a network without weights, PyTorch imports its compiler
        return build_network(name)
    try:
        with torch.device("meta"):
            return build_network(name)
    except NotImplementedError:  # RegNet computes its widths with tensors while it is built
        return build_network(name)

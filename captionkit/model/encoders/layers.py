"""Cutting a classification network after the layer whose output is the features."""

from torch import nn

from captionkit.model.encoders.encoder import EncoderError, Output

_LAST_MAPS = ("layer4", "conv5", "inception5b", "Mixed_7c", "trunk_output", "layers", "features")
"""The names of the module that gives the last feature map, in torchvision's families."""


def remove_classifier(network: nn.Module, name: str, output: Output, layer: str | None) -> nn.Module:
    """The network up to its last linear layer, or up to a feature map, which it then gives as {"map": (N, D, h, w)}.

    Raises:
        EncoderError: no such layer.
    """
    if output == "pooled" and layer is None and not name.startswith("squeezenet"):
        attribute = "fc" if hasattr(network, "fc") else "classifier"
        head = getattr(network, attribute)
        if isinstance(head, nn.Sequential):
            head[-1] = nn.Identity()
        else:
            setattr(network, attribute, nn.Identity())
        return network
    layer = layer or _last_map(network, name)
    from torchvision.models.feature_extraction import create_feature_extractor  # late: see `torchvision_models`

    try:
        extractor: nn.Module = create_feature_extractor(network, {layer: "map"})
    except ValueError as error:
        parts = ", ".join(child for child, _ in network.named_children())
        raise EncoderError(f"{name} has no layer {layer!r}; its parts are: {parts}") from error
    return extractor


def _last_map(network: nn.Module, name: str) -> str:
    if name.startswith("densenet"):
        return "relu"  # a function called after `features`, not a module
    layer = next(child for child in _LAST_MAPS if hasattr(network, child))
    module = getattr(network, layer)
    if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.MaxPool2d):
        # Of VGG the 14 × 14 places that Show, Attend and Tell (Xu et al. 2015) reads, not the 7 × 7 pooled.
        return f"{layer}.{len(module) - 2}"
    return layer

"""A captioner as the PyTorch tutorial's own files: encoder.ckpt, decoder.ckpt, and the words as JSON.

Its encoder is `bn(linear(resnet(image)))`, the ResNet a Sequential of its children, its decoder an embedding, an LSTM
and a linear layer (github.com/yunjey/pytorch-tutorial, 03-advanced/image_captioning).
"""

from __future__ import annotations

import io
import json
from typing import Final

import torch
from torch import Tensor, nn

from captionkit.errors import UsageError
from captionkit.images import Preprocessing
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import ShowTell

_CHILDREN: Final = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""Places of a ResNet's children in a Sequential."""
_EPS: Final = 1e-5
"""PyTorch's, of a batch norm."""
_USUAL: Final = Preprocessing(size=224, resize=224, interpolation="lanczos", mode="squash")


def to_tutorial(captioner: Captioner) -> tuple[dict[str, bytes], list[str]]:
    """The files by name, and what the tutorial's programs do otherwise.

    Args:
        captioner: on the CPU, in fp32.

    Raises:
        UsageError: a captioner of another family or encoder.
    """
    decoder, encoder, notes = captioner.decoder, captioner.encoder, list[str]()
    name = encoder.config["name"]
    if not isinstance(decoder, ShowTell) or not isinstance(decoder.lstm, nn.LSTM) or decoder.config.image_relu:
        raise UsageError(
            f"--to tutorial: the PyTorch tutorial's captioner is of the family show_tell; this one is {decoder.name}"
            + (" with a ReLU after the image or maxout" if isinstance(decoder, ShowTell) else "")
        )
    if not name.startswith(("resnet", "wide_resnet", "resnext")) or encoder.config["layer"]:
        raise UsageError(f"--to tutorial: the PyTorch tutorial's encoder is a whole ResNet; this one is {name}")
    weight, bias = decoder.image.weight.double(), decoder.image.bias.double()
    scale, mean = decoder.feature_scale.double(), decoder.feature_mean.double()
    if not bool((scale == 1).all() and (mean == 0).all()):
        weight = weight * scale
        bias = bias - weight @ mean
        notes.append("features are not cut off at 8 standard deviations, as captionkit does")
    geometry = captioner.preprocessing
    if (geometry.size, geometry.mode, geometry.interpolation) != (_USUAL.size, _USUAL.mode, _USUAL.interpolation):
        notes.append(
            f"this captioner was trained on images of {geometry.size}, {geometry.mode}, {geometry.interpolation}; the "
            "tutorial's sample.py resizes to 224 × 224 by Lanczos: change it there"
        )
    if (geometry.mean, geometry.std) != (_USUAL.mean, _USUAL.std):
        notes.append(f"its mean is {geometry.mean} and its deviation {geometry.std}: change them in sample.py")
    if "adopted" not in captioner.provenance:
        notes.append(
            "the tutorial's `sample` expects the start marker as the first prediction, which captionkit does not "
            "train: feed the features, and then <start>"
        )
    parts: dict[str, Tensor] = {"linear.weight": weight.float(), "linear.bias": bias.float()}
    parts |= {"bn.weight": torch.ones(len(bias)), "bn.bias": torch.zeros(len(bias))}
    # With its epsilon this batch norm changes nothing.
    parts |= {"bn.running_mean": torch.zeros(len(bias)), "bn.running_var": torch.full((len(bias),), 1 - _EPS)}
    parts["bn.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    for key, tensor in encoder.network.state_dict().items():
        child, _, rest = key.partition(".")
        parts[f"resnet.{_CHILDREN[child]}.{rest}"] = tensor
    own = {"embed.weight": decoder.words.weight, "linear.weight": decoder.output.weight}
    own |= {"linear.bias": decoder.output.bias}
    own |= {f"lstm.{key}": tensor for key, tensor in decoder.lstm.state_dict().items()}
    words = captioner.vocabulary.words
    vocabulary = {
        "word2idx": {word: number for number, word in enumerate(words)},
        "idx2word": {str(number): word for number, word in enumerate(words)},
        "idx": len(words),
    }
    files = {
        "encoder.ckpt": _saved(parts),
        "decoder.ckpt": _saved(own),
        "vocab.json": (json.dumps(vocabulary, ensure_ascii=False) + "\n").encode(),
    }
    return files, notes


def _saved(tensors: dict[str, Tensor]) -> bytes:
    """As `torch.save` of a state dict; each tensor has memory of its own."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, file)
    return file.getvalue()

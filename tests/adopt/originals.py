"""Captioners of other projects, written anew and small from their published descriptions, with their layouts of files.

Nothing here is captionkit's: what is adopted is compared with these.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from tests.adopt.keras_networks import save_layers

WORDS = [
    *("a", "the", "dog", "cat", "runs", "sits", "on", "in", "grass", "red"),
    *("ball", "with", "two", "small", "big", "and", "over", "water", "snow", "tree"),
]


class Vocabulary:
    """The tutorial's build_vocab.py: word2idx, idx2word, idx."""

    def __init__(self, words: list[str]) -> None:
        self.word2idx = {word: number for number, word in enumerate(words)}
        self.idx2word = dict(enumerate(words))
        self.idx = len(words)


class Encoder(nn.Module):
    """`bn(linear(resnet(x)))`, the ResNet a Sequential of its children without the last."""

    def __init__(self, embed: int, make: Any = torchvision.models.resnet18, norm: bool = True) -> None:
        super().__init__()
        resnet = make(weights=None)
        self.resnet = nn.Sequential(*list(resnet.children())[:-1])
        self.linear = nn.Linear(resnet.fc.in_features, embed)
        self.bn = nn.BatchNorm1d(embed, momentum=0.01) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.bn(self.linear(self.resnet(images).flatten(1)))
        return out


class InceptionEncoder(nn.Module):
    """The variant with Inception v3 (its last layer replaced) and a ReLU after it."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.inception = torchvision.models.inception_v3(
            weights=None, aux_logits=False, transform_input=True, init_weights=False
        )
        self.inception.fc = nn.Linear(self.inception.fc.in_features, embed)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.inception(images))


class Decoder(nn.Module):
    """Embedding, LSTM, output; the features are the first input."""

    def __init__(self, words: int, embed: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, embed)
        self.lstm = nn.LSTM(embed, hidden, layers, batch_first=True)
        self.linear = nn.Linear(hidden, words)

    def forward(self, features: Tensor, captions: Tensor) -> Tensor:
        """Logits for what follows the image and each token."""
        inputs = torch.cat([features.unsqueeze(1), self.embed(captions)], dim=1)
        out: Tensor = self.linear(self.lstm(inputs)[0])
        return out

    @torch.no_grad()
    def sample(self, features: Tensor, start: int, steps: int = 20) -> list[int]:
        """The tutorial's greedy search over one image. What follows the image is the start marker, as a trained model
        predicts; an untrained one is told."""
        ids = [start]
        _, states = self.lstm(features.unsqueeze(1))
        for _ in range(steps - 1):
            hidden, states = self.lstm(self.embed(torch.tensor([[ids[-1]]])), states)
            ids.append(int(self.linear(hidden.squeeze(1)).argmax(1)))
        return ids


def sharpen(module: nn.Module, seed: int) -> None:
    """Random weights large enough that captions differ between images, and statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1 and tensor.dtype.is_floating_point:
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
            elif tensor.ndim == 2:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (3 / tensor.shape[1] ** 0.5))


def words_of(ids: list[int], words: list[str], markers: tuple[str, ...]) -> str:
    """A caption as the tutorial prints it, without its markers."""
    found = []
    for number in ids:
        if words[number] == markers[1]:
            break
        if words[number] not in (markers[0], "<pad>"):
            found.append(words[number])
    return " ".join(found)


def tutorial_pixels(image: Image.Image) -> Tensor:
    """224 × 224 by Lanczos, the whole image, ImageNet's mean and deviation: (1, 3, 224, 224)."""
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.LANCZOS), np.float32) / 255
    normal = (pixels - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    return torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)


def save_torch(value: Any, path: Path, legacy: bool = False) -> Path:
    """A PyTorch file in either format."""
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_pickle(value: Any, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def save_keras_inception(path: Path, seed: int = 0) -> Path:
    """Random weights of InceptionV3 in the layout of keras.applications: convolutions and batch norms without scale, in
    the order in which Keras makes them."""
    network = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    layers: list[tuple[str, list[Any]]] = []
    random = np.random.default_rng(seed)
    for name, module in network.named_modules():
        if name.endswith(".conv"):
            number = len(layers) // 2
            suffix = f"_{number}" if number else ""
            kernel = module.weight.detach().permute(2, 3, 1, 0).numpy()
            size = len(module.weight)
            norm = [random.normal(0, 0.3, size), random.normal(0, 0.3, size), random.uniform(0.5, 2, size)]
            layers += [(f"conv2d{suffix}", [kernel]), (f"batch_normalization{suffix}", norm)]
    return save_layers(path, dict(layers))


def renamed(module: nn.Module, **names: str) -> dict[str, Tensor]:
    """A state dict under other names of layers."""
    state: dict[str, Tensor] = collections.OrderedDict()
    for key, tensor in module.state_dict().items():
        first, _, rest = key.partition(".")
        state[f"{names.get(first, first)}.{rest}"] = tensor
    return state


def photo(seed: int) -> Image.Image:
    """A picture of patches of colour, not square."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((300, 200), Image.Resampling.BICUBIC)

"""Networks of keras.applications, computed from arrays in Keras's layout, which are drawn while the network runs.

Written from their papers and Keras's names of layers; padding is spelled out as TensorFlow defines it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad


class Network:
    """Layers by name. `layers` has their arrays in the order in which Keras keeps them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.layers: dict[str, list[Any]] = {}

    def draw(self, *shape: int, fan: int) -> Any:
        return self.random.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)

    def convolve(self, x: Tensor, name: str, out: int, size: int, stride: int = 1, bias: bool = False) -> Tensor:
        """Without padding."""
        inputs = x.shape[1]
        arrays = [self.draw(size, size, inputs, out, fan=size * size * inputs)]
        arrays += [self.draw(out, fan=20)] if bias else []
        self.layers[name] = arrays
        kernel = torch.from_numpy(arrays[0]).permute(3, 2, 0, 1)
        return conv2d(x, kernel, torch.from_numpy(arrays[1]) if bias else None, stride)

    def separate(self, x: Tensor, name: str, out: int) -> Tensor:
        """3 × 3, padded by a pixel: depthwise, then pointwise."""
        inputs = x.shape[1]
        arrays = [self.draw(3, 3, inputs, 1, fan=9), self.draw(1, 1, inputs, out, fan=2 * inputs)]
        self.layers[name] = arrays
        depthwise, pointwise = (torch.from_numpy(array) for array in arrays)
        spread = torch.zeros_like(x)
        padded = pad(x, [1, 1, 1, 1])
        for row in range(3):
            for column in range(3):
                part = padded[:, :, row : row + x.shape[2], column : column + x.shape[3]]
                spread = spread + part * depthwise[row, column].view(1, -1, 1, 1)
        return torch.einsum("nihw,io->nohw", spread, pointwise[0, 0])

    def normalise(self, x: Tensor, name: str, epsilon: float) -> Tensor:
        size = x.shape[1]
        own = x.detach()
        mean, variance = own.mean((0, 2, 3)).numpy(), own.var((0, 2, 3), correction=0).numpy()
        gamma, beta = (self.random.uniform(*ends, size).astype(np.float32) for ends in ((0.5, 1.5), (-0.3, 0.3)))
        # Not far below the others', or noise would grow from layer to layer.
        variance = np.maximum(variance * self.random.uniform(0.7, 1.4, size), variance.mean()).astype(np.float32)
        self.layers[name] = [gamma, beta, mean, variance]
        gamma, beta, mean, variance = (torch.from_numpy(one).view(1, -1, 1, 1) for one in self.layers[name])
        return (x - mean) / torch.sqrt(variance + epsilon) * gamma + beta


def pool_same(x: Tensor) -> Tensor:
    """The greatest of 3 × 3 with stride 2: of the pixels that are lacking, half before and the rest behind."""
    lacking = [max(0, (-(-side // 2) - 1) * 2 + 3 - side) for side in (x.shape[3], x.shape[2])]
    ends = [end for one in lacking for end in (one // 2, one - one // 2)]
    return max_pool2d(pad(x, ends, value=-torch.inf), 3, 2)


def run_xception(net: Network, x: Tensor, numbers: list[str]) -> Tensor:
    """Features (N, 2048) of pixels from -1 to 1.

    Args:
        numbers: the endings that Keras's session gave the four projections.
    """
    for name, out, stride in (("block1_conv1", 32, 2), ("block1_conv2", 64, 1)):
        x = torch.relu(net.normalise(net.convolve(x, name, out, 3, stride), f"{name}_bn", 1e-3))
    sizes = {2: (128, 128), 3: (256, 256), 4: (728, 728), 13: (728, 1024)}
    for block in range(2, 14):
        begin = x
        outs = sizes.get(block, (728, 728, 728))
        for n, out in enumerate(outs, 1):
            name = f"block{block}_sepconv{n}"
            x = x if block == 2 and n == 1 else torch.relu(x)
            x = net.normalise(net.separate(x, name, out), f"{name}_bn", 1e-3)
        if block in sizes:
            number = numbers.pop(0)
            begin = net.convolve(begin, f"conv2d{number}", outs[-1], 1, 2)
            begin, x = net.normalise(begin, f"batch_normalization{number}", 1e-3), pool_same(x)
        x = x + begin
    for n, out in ((1, 1536), (2, 2048)):
        name = f"block14_sepconv{n}"
        x = torch.relu(net.normalise(net.separate(x, name, out), f"{name}_bn", 1e-3))
    return x.mean((2, 3))


def run_resnet(net: Network, x: Tensor, blocks: tuple[int, ...], old: bool = False) -> Tensor:
    """Features (N, 2048) of pixels from 0 to 255, blue first, minus Caffe's mean.

    Args:
        old: with the names and the epsilon that Keras had before 2.3.
    """

    def layer(x: Tensor, name: str, out: int, size: int = 1, stride: int = 1) -> Tensor:
        conv, norm, epsilon = f"{name}_conv", f"{name}_bn", 1.001e-5
        if old and name == "conv1":
            conv, norm, epsilon = "conv1", "bn_conv1", 1e-3
        elif old:
            stage, block, part = name.removeprefix("conv").replace("block", "").split("_")
            place = f"{stage}{chr(96 + int(block))}_branch{['1', '2a', '2b', '2c'][int(part)]}"
            conv, norm, epsilon = f"res{place}", f"bn{place}", 1e-3
        return net.normalise(net.convolve(x, conv, out, size, stride, bias=True), norm, epsilon)

    x = torch.relu(layer(pad(x, [3, 3, 3, 3]), "conv1", 64, 7, 2))
    x = max_pool2d(pad(x, [1, 1, 1, 1]), 3, 2)
    for stage, count in enumerate(blocks, 2):
        out = 32 * 2**stage // 2
        for block in range(1, count + 1):
            name, stride = f"conv{stage}_block{block}", 2 if block == 1 and stage > 2 else 1
            begin = layer(x, f"{name}_0", 4 * out, 1, stride) if block == 1 else x
            x = torch.relu(layer(x, f"{name}_1", out, 1, stride))
            x = torch.relu(layer(pad(x, [1, 1, 1, 1]), f"{name}_2", out, 3))
            x = torch.relu(layer(x, f"{name}_3", 4 * out) + begin)
    return x.mean((2, 3))


def save_layers(path: Path, layers: dict[str, list[Any]]) -> Path:
    """The layout of Keras 2's `save_weights`, in which keras.applications publishes its files."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"part_{number}".encode() for number in range(len(arrays))]
            for number, array in enumerate(arrays):
                group.create_dataset(f"part_{number}", data=array.astype(np.float32))
    return path


MIXED: dict[str, list[list[tuple[str, int]]]] = {
    "5b": [[("0a_1x1", 64)], [("0a_1x1", 48), ("0b_5x5", 64)], [("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)],
           [("0b_1x1", 32)]],
    "5c": [[("0a_1x1", 64)], [("0b_1x1", 48), ("Conv_1_0c_5x5", 64)],
           [("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)], [("0b_1x1", 64)]],
    "5d": [[("0a_1x1", 64)], [("0a_1x1", 48), ("0b_5x5", 64)], [("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)],
           [("0b_1x1", 64)]],
    "6a": [[("1a_1x1", 384)], [("0a_1x1", 64), ("0b_3x3", 96), ("1a_1x1", 96)], []],
    **{
        name: [
            [("0a_1x1", 192)],
            [("0a_1x1", wide), ("0b_1x7", wide), ("0c_7x1", 192)],
            [("0a_1x1", wide), ("0b_7x1", wide), ("0c_1x7", wide), ("0d_7x1", wide), ("0e_1x7", 192)],
            [("0b_1x1", 192)],
        ]
        for name, wide in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192))
    },
    "7a": [[("0a_1x1", 192), ("1a_3x3", 320)],
           [("0a_1x1", 192), ("0b_1x7", 192), ("0c_7x1", 192), ("1a_3x3", 192)], []],
    "7b": [[("0a_1x1", 320)], [("0a_1x1", 384), ("0b_1x3|0b_3x1", 384)],
           [("0a_1x1", 448), ("0b_3x3", 384), ("0c_1x3|0d_3x1", 384)], [("0b_1x1", 192)]],
    "7c": [[("0a_1x1", 320)], [("0a_1x1", 384), ("0b_1x3|0c_3x1", 384)],
           [("0a_1x1", 448), ("0b_3x3", 384), ("0c_1x3|0d_3x1", 384)], [("0b_1x1", 192)]],
}  # fmt: skip
"""Branches of slim's Inception v3: scopes (1a_1x1 are of 3 × 3) and channels; those with "|" stand side by side."""


def run_slim_inception(net: Network, x: Tensor) -> Tensor:
    """Features (N, 2048) of pixels from -1 to 1, with slim's names of variables; its batch norms have no gamma."""

    def layer(x: Tensor, scope: str, out: int, size: tuple[int, int], stride: int = 1, same: bool = True) -> Tensor:
        rows, columns = size
        x = pad(x, [columns // 2, columns // 2, rows // 2, rows // 2]) if same else x
        kernel = net.draw(rows, columns, x.shape[1], out, fan=rows * columns * x.shape[1])
        x = conv2d(x, torch.from_numpy(kernel).permute(3, 2, 0, 1), None, stride)
        net.normalise(x, scope, 1e-3)
        _, beta, mean, variance = net.layers[scope]
        net.layers[scope] = [kernel, beta, mean, variance]
        beta, mean, variance = (torch.from_numpy(one).view(1, -1, 1, 1) for one in (beta, mean, variance))
        return torch.relu((x - mean) / torch.sqrt(variance + 1e-3) + beta)

    for scope, out, size, stride, same in (
        ("Conv2d_1a_3x3", 32, 3, 2, False), ("Conv2d_2a_3x3", 32, 3, 1, False), ("Conv2d_2b_3x3", 64, 3, 1, True),
        ("pool", 0, 0, 0, False), ("Conv2d_3b_1x1", 80, 1, 1, False), ("Conv2d_4a_3x3", 192, 3, 1, False),
        ("pool", 0, 0, 0, False),
    ):  # fmt: skip
        x = max_pool2d(x, 3, 2) if scope == "pool" else layer(x, scope, out, (size, size), stride, same)
    for name, branches in MIXED.items():
        outs = []
        for number, branch in enumerate(branches):
            y = max_pool2d(x, 3, 2) if not branch else x
            if number == 3:
                y = avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            for scopes, out in branch:
                beside = []
                for scope in scopes.split("|"):
                    full = f"Mixed_{name}/Branch_{number}/{scope if scope.startswith('Conv') else f'Conv2d_{scope}'}"
                    halves = scope.startswith("1a")
                    size = (3, 3) if halves else tuple(map(int, scope.rpartition("_")[2].split("x")))
                    beside.append(layer(y, full, out, (size[0], size[1]), 2 if halves else 1, not halves))
                y = torch.cat(beside, 1)
            outs.append(y)
        x = torch.cat(outs, 1)
    return x.mean((2, 3))

"""Random crops and mirrors of a batch of pixels, for training the encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def augment(pixels: Tensor, crop: float, mirror: bool) -> Tensor:
    """A random square of each image, brought back to the whole size.

    Args:
        pixels: (N, S, S, 3) uint8.
        crop: the smallest side of a square, as a share of S; 1 leaves images as they are.
        mirror: mirror half of them.
    """
    count = len(pixels)
    scale = crop + (1 - crop) * torch.rand(count)
    shift = (2 * torch.rand(count, 2) - 1) * (1 - scale).unsqueeze(1)
    sign = 1 - 2 * (torch.rand(count) < 0.5).float() * mirror
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * sign, scale, shift
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = affine_grid(theta.to(pixels.device), list(planes.shape), align_corners=False)
    found = grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

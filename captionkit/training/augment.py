"""Image augmentation for training the encoder: random crops and mirroring."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def augment(pixels: Tensor, crop: float, mirror: bool) -> Tensor:
    """Crop a random square of each image and resize it to the image's size.

    Args:
        pixels: (N, S, S, 3) uint8.
        crop: smallest side of a square, as a share of S; 1 disables cropping.
        mirror: mirror each image with probability 1/2.

    Returns:
        (N, S, S, 3) uint8.
    """
    count = len(pixels)
    scale = crop + (1 - crop) * torch.rand(count)
    shift = (2 * torch.rand(count, 2) - 1) * (1 - scale).unsqueeze(1)
    sign = 1 - 2 * (torch.rand(count) < 0.5).float() * mirror
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * sign, scale, shift
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = affine_grid(theta.to(pixels.device), list(planes.shape), align_corners=False)
    sampled = grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

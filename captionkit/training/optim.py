"""The optimizer, the moving average of the weights, and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def adamw(networks: Iterable[tuple[nn.Module, float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of networks, each with its highest learning rate.

    The parameter groups keep that rate as `highest`, for schedules. Weight decay applies to matrices and kernels only,
    not to biases and norms.
    """
    groups = []
    for network, rate in networks:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for params, decay in (
            ([p for p in trained if p.ndim > 1], weight_decay),
            ([p for p in trained if p.ndim <= 1], 0.0),
        ):
            groups.append({"params": params, "weight_decay": decay, "lr": rate, "highest": rate})
    return torch.optim.AdamW(groups, fused=True)  # fused takes a quarter of the time, on a CPU too


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network with the exponential moving average of its weights, updated once per step.

    In the first steps the decay is smaller, since the initial weights are random: at most (1 + step) / (10 + step), as
    in TensorFlow's ExponentialMovingAverage.

    Args:
        decay: share of the average that is kept at each step; 0 copies the weights.
    """

    def update_average(average: Any, weights: Any, steps: Any) -> None:
        done = float(steps)
        update = get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))  # type: ignore[no-untyped-call]
        update(average, weights, steps)

    return AveragedModel(network, multi_avg_fn=update_average)


def rate_at(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """The learning rate at a step, counted from 0, as a share of the highest rate.

    Args:
        warmup: share of the steps in which the rate rises from 0.
        schedule: the rate after the warm-up: "cosine" or "linear" decay to 0, or "constant".
    """
    warm = max(1.0, warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1.0, steps - warm)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]

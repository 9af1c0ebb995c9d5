"""A training loop in one process: teacher forcing, AdamW, warm-up and cosine schedule, clipped gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captionkit.training.optim import adamw, rate_at
from captionkit.vocabulary import PAD


@dataclass(frozen=True)
class LoopOptions:
    """Optimization."""

    steps: int
    """Number of steps, with a batch each."""
    learning_rate: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from 0; then it decays to 0 along a cosine."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on weight matrices and kernels only (not on biases and norms)."""
    clip: float = 1.0
    """Highest norm of the gradient."""


class Point(NamedTuple):
    """A point of the learning curve."""

    step: int
    loss: float
    """Mean over the steps since the previous point, in nats."""


def caption_loss(logits: Tensor, tokens: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats over the words and end markers of a batch, without padding.

    Args:
        logits: (N, T - 1, V), predicted after each token but the last.
        tokens: (N, T), with markers and padding.
    """
    return cross_entropy(
        logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=PAD, label_smoothing=label_smoothing
    )


def teacher_forcing(
    forward: Callable[[Tensor, Tensor], Tensor], label_smoothing: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a decoder by teacher forcing: it reads the true previous words.

    Args:
        forward: inputs (N, …) and tokens (N, T - 1) to logits (N, T - 1, V).
        label_smoothing: probability spread over all words (Szegedy et al. 2016).
    """
    return lambda inputs, tokens: caption_loss(forward(inputs, tokens[:, :-1]), tokens, label_smoothing)


def fit(
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor]],
    options: LoopOptions,
    report: Callable[[Point], None] = lambda _: None,
    every: int = 50,
) -> list[Point]:
    """Train a network's parameters in place.

    Args:
        network: its parameters that require a gradient are trained.
        loss_of: maps inputs (N, …) and targets (N, …) to the loss of a batch; `teacher_forcing` makes one.
        batches: endless iterator of inputs and targets.
        report: called with each point of the learning curve.
        every: steps between two points.

    Returns:
        The learning curve.
    """
    optimizer = adamw([(network, options.learning_rate)], options.weight_decay)
    curve: list[Point] = []
    total = 0.0
    network.train()
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * rate_at(step - 1, options.steps, options.warmup)
        loss = loss_of(*next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        optimizer.step()
        total += loss.item()
        if step % every == 0 or step == options.steps:
            curve.append(Point(step, total / ((step - 1) % every + 1)))
            report(curve[-1])
            total = 0.0
    network.eval()
    return curve

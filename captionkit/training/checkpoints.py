"""Checkpoints: weights, the optimiser's state, the learning curve so far. Nothing but tensors is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

STATE, HISTORY = "state.pt", "history.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read. The message says which and why."""


@dataclass
class History:
    """The learning curve: points of loss, and of dev CIDEr where one was judged."""

    points: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    def add(self, step: int, epoch: float, figures: dict[str, float]) -> None:
        """A point after `step` steps."""
        self.step = step
        self.points.append({"step": step, "epoch": round(epoch, 4), **figures})


def write_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
    """Write a checkpoint into an empty folder."""
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / STATE)
    (folder / HISTORY).write_text(json.dumps({"step": history.step, "points": history.points}), encoding="utf-8")


def load_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer | None, device: torch.device
) -> History:
    """Put a checkpoint back where it came from.

    Raises:
        CheckpointError: it is cut off, holds anything but tensors and plain values, or is of another network.
    """
    try:
        state = torch.load(folder / STATE, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        known = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        return History(known["points"], known["step"])
    except Exception as err:  # torch raises nearly anything over a broken file
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CheckpointError(f"the checkpoint in {folder} cannot be used: {first}") from err

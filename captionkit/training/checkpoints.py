"""Checkpoints: weights, optimizer state, learning curve. Only tensors and plain values are unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

STATE, HISTORY = "state.pt", "history.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read. The message says which and why."""


@dataclass
class History:
    """The learning curve: points with the loss, and points with dev CIDEr-D, one after each validation."""

    points: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    def add(self, step: int, epoch: float, figures: dict[str, float]) -> None:
        """Append a point after `step` steps."""
        self.step = step
        self.points.append({"step": step, "epoch": round(epoch, 4), **figures})


def write_checkpoint(
    folder: Path, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer, history: History
) -> None:
    """Write a checkpoint into an empty folder: the network, the average of its weights, the optimizer, the curve."""
    state = {"network": network.state_dict(), "average": average.module.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, folder / STATE)
    (folder / HISTORY).write_text(json.dumps({"step": history.step, "points": history.points}), encoding="utf-8")


def resume(
    folder: Path, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer, device: torch.device
) -> History:
    """Load a checkpoint into network, average and optimizer; returns its learning curve.

    Raises:
        CheckpointError: it is truncated, holds other things than tensors and plain values, or is of another network.
    """
    with _checkpoint_errors(folder):
        state = _read(folder, device)
        network.load_state_dict(state["network"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        content = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        average.n_averaged.fill_(content["step"])
        return History(content["points"], content["step"])


def load_average(folder: Path, network: nn.Module) -> None:
    """Load a checkpoint's averaged weights, which were validated, into a network on the CPU.

    Raises:
        CheckpointError: as `resume` does.
    """
    with _checkpoint_errors(folder):
        network.load_state_dict(_read(folder, torch.device("cpu"))["average"])


def _read(folder: Path, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return state


@contextmanager
def _checkpoint_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # torch raises many kinds of errors for a broken file
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CheckpointError(f"the checkpoint in {folder} cannot be used: {first}") from err

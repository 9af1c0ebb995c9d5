"""Checkpoints: weights, the optimiser's state, the learning curve so far. Nothing but tensors is ever unpickled."""

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
    """The learning curve: points of loss, and of dev CIDEr where one was judged."""

    points: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    def add(self, step: int, epoch: float, figures: dict[str, float]) -> None:
        """A point after `step` steps."""
        self.step = step
        self.points.append({"step": step, "epoch": round(epoch, 4), **figures})


def write_checkpoint(
    folder: Path, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer, history: History
) -> None:
    """Write a checkpoint into an empty folder: the network being trained, and the average of its weights."""
    state = {"network": network.state_dict(), "average": average.module.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, folder / STATE)
    (folder / HISTORY).write_text(json.dumps({"step": history.step, "points": history.points}), encoding="utf-8")


def resume(
    folder: Path, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer, device: torch.device
) -> History:
    """Put a checkpoint back where it came from.

    Raises:
        CheckpointError: it is cut off, holds anything but tensors and plain values, or is of another network.
    """
    with _named(folder):
        state = _read(folder, device)
        network.load_state_dict(state["network"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        known = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        average.n_averaged.fill_(known["step"])
        return History(known["points"], known["step"])


def load_average(folder: Path, network: nn.Module) -> None:
    """Load a checkpoint's average, which is what was judged, into a network on the CPU.

    Raises:
        CheckpointError: as `resume` does.
    """
    with _named(folder):
        network.load_state_dict(_read(folder, torch.device("cpu"))["average"])


def _read(folder: Path, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return state


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # torch raises nearly anything over a broken file
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CheckpointError(f"the checkpoint in {folder} cannot be used: {first}") from err

"""Checkpoints: what comes back, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from captionkit.training.checkpoints import STATE, CheckpointError, History, load_average, resume, write_checkpoint
from captionkit.training.optim import adamw, averaged

CPU = torch.device("cpu")


def trained(steps: int, decay: float = 0.9) -> tuple[nn.Linear, torch.optim.swa_utils.AveragedModel, torch.optim.AdamW]:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    average, optimizer = averaged(network, decay), adamw([(network, 0.1)], 0.0)
    train(network, average, optimizer, steps)
    return network, average, optimizer


def train(network: nn.Linear, average: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (network(torch.ones(1, 3)) - 5).square().sum().backward()
        optimizer.step()
        average.update_parameters(network)


def test_a_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = trained(7)
    write_checkpoint(tmp_path, *trained(4), History([{"step": 4, "loss": 1.0}], 4))
    half = trained(0)
    history = resume(tmp_path, *half, CPU)
    assert (history.step, history.points) == (4, [{"step": 4, "loss": 1.0}])
    train(*half, 3)
    assert torch.equal(half[0].weight, whole[0].weight)
    assert torch.equal(half[1].module.weight, whole[1].module.weight)


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    network, average, optimizer = trained(20)
    write_checkpoint(tmp_path, network, average, optimizer, History())
    load_average(tmp_path, kept := nn.Linear(3, 2))
    assert torch.equal(kept.weight, average.module.weight)
    assert not torch.allclose(kept.weight, network.weight)


def test_a_decay_of_nothing_follows_at_once() -> None:
    network, average, _ = trained(5, decay=0.0)
    assert torch.allclose(network.weight, average.module.weight)


def test_an_average_is_of_the_last_steps() -> None:
    network, average = nn.Linear(1, 1, bias=False), None
    for step in range(200):
        nn.init.constant_(network.weight, float(step))
        if average is None:
            average = averaged(network, 0.9)
        average.update_parameters(network)
    # An exponential average with decay d is (of what grows by one a step) d / (1 - d) steps behind.
    assert float(average.module.weight) == pytest.approx(199 - 0.9 / 0.1, abs=0.01)


@pytest.mark.parametrize("what", ["cut", "pickle", "other"])
def test_a_broken_or_hostile_checkpoint_is_refused(tmp_path: Path, what: str) -> None:
    write_checkpoint(tmp_path, *trained(1), History())
    state, fired = tmp_path / STATE, tmp_path / "fired"
    if what == "cut":
        state.write_bytes(state.read_bytes()[:-200])
    elif what == "pickle":
        torch.save({"average": Bomb(str(fired))}, state)
    network = nn.Linear(4, 4) if what == "other" else nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_average(tmp_path, network)
    assert not fired.exists()


class Bomb:
    """Makes a file when it is unpickled without restraint."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(str(tmp_path / "fired"))))
    assert (tmp_path / "fired").exists()

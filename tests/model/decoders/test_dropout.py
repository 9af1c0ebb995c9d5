"""Dropout on a CPU, against what nn.Dropout promises."""

import pytest
import torch

from captionkit.model.decoders.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_of_values_is_zero_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(1000, 1001))
    assert (dropped == 0).float().mean() == pytest.approx(p, abs=0.002)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - p)])


def test_every_place_of_the_numbers_is_random_by_itself() -> None:
    torch.manual_seed(0)
    zeros = (Dropout(0.3)(torch.ones(40_000, 4)) == 0).float()
    assert zeros.mean(dim=0).tolist() == pytest.approx([0.3] * 4, abs=0.01)
    assert (torch.corrcoef(zeros.T) - torch.eye(4)).abs().max() < 0.02


def test_the_same_seed_drops_the_same_and_evaluation_drops_nothing() -> None:
    values, layer = torch.randn(7, 5, dtype=torch.bfloat16, requires_grad=True), Dropout(0.4)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(values))
    assert torch.equal(*results)
    assert results[0].dtype == torch.bfloat16
    results[0].sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, results[0] != 0)
    assert layer.eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_no_value_is_no_trouble() -> None:
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)

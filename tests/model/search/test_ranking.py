"""The k best of a row, whatever its length, and equal ones in their order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.model.search.ranking import gather_beams, stable_topk


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(1, 3000),
    k=st.integers(1, 12),
    levels=st.sampled_from([1, 2, 5, 100_000]),
    seed=st.integers(0, 1000),
)
def test_stable_topk_is_a_stable_sort(size: int, k: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels + 1, (3, size), generator=generator) / 4
    values[values == values.max()] *= -1  # no row is all positive, and there are zeros of both signs
    values[torch.rand(3, size, generator=generator) < 0.1] = -torch.inf
    best, indices = stable_topk(values, k)
    # Equal but for the sign of zero, which a stable sort on the values does not see either.
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, expected.values[:, :k])
    assert torch.equal(values.gather(1, indices), best)
    finite = best > -torch.inf
    assert torch.equal(indices[finite], expected.indices[:, :k][finite])


@pytest.mark.parametrize("size", [63, 64, 65, 511, 512, 513, 640, 10_000, 10_001])
def test_all_equal_gives_the_first(size: int) -> None:
    _, indices = stable_topk(torch.zeros(2, 2, size), 2)
    assert indices.tolist() == [[[0, 1], [0, 1]]] * 2
    _, indices = stable_topk(torch.full((1, size), -torch.inf), 5)
    assert indices.shape == (1, 5)
    assert indices.max() < size


def test_signs_of_zero_are_equal() -> None:
    assert stable_topk(torch.tensor([-0.0, 0.0, -0.0]), 3)[1].tolist() == [0, 1, 2]


def test_the_best_may_stand_in_the_short_last_block() -> None:
    values = torch.zeros(1, 1000)
    values[0, 999] = 2
    values[0, 10] = 1
    assert stable_topk(values, 3)[1].tolist() == [[999, 10, 0]]


def test_gather_beams_gathers_along_the_last_axis_of_indices() -> None:
    values = torch.arange(24).view(2, 3, 4)
    indices = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(gather_beams(values, indices)[0], values[0, [2, 0]])
    assert torch.equal(gather_beams(values, indices)[1], values[1, [1, 1]])

"""The k best of a row, whatever its length, and equal ones in their order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.model.search.ranking import take, top


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(1, 3000),
    k=st.integers(1, 12),
    levels=st.sampled_from([1, 2, 5, 100_000]),
    seed=st.integers(0, 1000),
)
def test_top_is_a_stable_sort(size: int, k: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels + 1, (3, size), generator=generator) / 4
    values[values == values.max()] *= -1  # no row is all positive, and there are zeros of both signs
    values[torch.rand(3, size, generator=generator) < 0.1] = -torch.inf
    best, places = top(values, k)
    # Equal but for the sign of zero, which a stable sort on the values does not see either.
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, expected.values[:, :k])
    assert torch.equal(values.gather(1, places), best)
    finite = best > -torch.inf
    assert torch.equal(places[finite], expected.indices[:, :k][finite])


@pytest.mark.parametrize("size", [63, 64, 65, 511, 512, 513, 640, 10_000, 10_001])
def test_all_equal_gives_the_first(size: int) -> None:
    _, places = top(torch.zeros(2, 2, size), 2)
    assert places.tolist() == [[[0, 1], [0, 1]]] * 2
    _, places = top(torch.full((1, size), -torch.inf), 5)
    assert places.shape == (1, 5)
    assert places.max() < size


def test_signs_of_zero_are_equal() -> None:
    assert top(torch.tensor([-0.0, 0.0, -0.0]), 3)[1].tolist() == [0, 1, 2]


def test_the_best_may_stand_in_the_short_last_block() -> None:
    values = torch.zeros(1, 1000)
    values[0, 999] = 2
    values[0, 10] = 1
    assert top(values, 3)[1].tolist() == [[999, 10, 0]]


def test_take_gathers_along_the_last_axis_of_places() -> None:
    values = torch.arange(24).view(2, 3, 4)
    places = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(take(values, places)[0], values[0, [2, 0]])
    assert torch.equal(take(values, places)[1], values[1, [1, 1]])

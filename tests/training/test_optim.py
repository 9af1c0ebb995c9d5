"""The learning rate's schedule."""

import pytest

from captionkit.training.optim import rate_at


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100, warmup=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001

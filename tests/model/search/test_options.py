"""SearchOptions: which values are accepted, and how hypotheses are scored."""

import ast
import dataclasses
import inspect
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captionkit.model.search import SearchOptions, options


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "greedy"}, "method is one of beam, sample, not 'greedy'"),
        ({"length_penalty": "wu"}, "length_penalty is one of none, average, gnmt, reward, not 'wu'"),
        ({"stop": "early"}, "stop is one of exact, full"),
        ({"beam": 0}, "beam is a whole number of at least 1, not 0"),
        ({"beam": 2.5}, "beam is a whole number of at least 1, not 2.5"),
        ({"n_best": 0}, "n_best is a whole number"),
        ({"n_best": 4}, "n_best 4 is above beam 3"),
        ({"max_length": 0}, "max_length is a whole number of at least 1"),
        ({"min_length": -1}, "min_length is a whole number of at least 0"),
        ({"min_length": 31}, "min_length 31 is above max_length 30"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is a whole number"),
        ({"groups": 2}, "beam 3 cannot be divided into 2 groups"),
        ({"groups": 0}, "groups is a whole number of at least 1"),
        ({"alpha": -0.1}, "alpha is a number of at least 0, not -0.1"),
        ({"alpha": float("nan")}, "alpha is a number of at least 0, not nan"),
        ({"diversity": float("inf")}, "diversity is a number of at least 0, not inf"),
        ({"temperature": 0.0}, r"temperature is a number above 0, not 0.0 \(for greedy search: beam=1\)"),
        ({"top_k": -1}, "top_k is a whole number"),
        ({"top_p": 0.0}, "top_p is above 0 and at most 1, not 0.0"),
        ({"top_p": 1.1}, "top_p is above 0 and at most 1"),
        ({"seed": 2**63}, "seed is a whole number of 64 bits"),
        ({"seed": "x"}, "seed is a whole number of 64 bits"),
    ],
)
def test_options_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**fields)  # type: ignore[arg-type]


def test_samples_need_no_beam() -> None:
    assert SearchOptions(method="sample", n_best=10).n_best == 10


def test_every_field_says_in_one_line_what_it_is() -> None:
    """The lines become the commands' --help."""
    body = next(node for node in ast.parse(inspect.getsource(options)).body if isinstance(node, ast.ClassDef)).body
    lines = {
        first.target.id: second.value.value
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }
    assert list(lines) == [field.name for field in dataclasses.fields(SearchOptions)]
    assert all(isinstance(line, str) and "\n" not in line and line.endswith(".") for line in lines.values())


def test_scores() -> None:
    logprob = torch.tensor([-6.0])
    assert SearchOptions(length_penalty="none").score(logprob, 3).item() == -6
    assert SearchOptions(length_penalty="average").score(logprob, 3).item() == -2
    assert SearchOptions(length_penalty="average", alpha=0.0).score(logprob, 3).item() == -6
    assert SearchOptions(length_penalty="gnmt", alpha=2.0).score(logprob, 7).item() == pytest.approx(-1.5)
    assert SearchOptions(length_penalty="reward", alpha=0.5).score(logprob, torch.tensor([4])).item() == -4


@given(
    kind=st.sampled_from(["none", "average", "gnmt", "reward"]),
    alpha=st.floats(0, 4),
    logprob=st.floats(-500, 0, width=32),
    lost=st.floats(0, 100, width=32),
    tokens=st.integers(1, 60),
    more=st.integers(0, 60),
)
def test_the_score_at_the_limit_bounds_what_can_come(
    kind: str, alpha: float, logprob: float, lost: float, tokens: int, more: int
) -> None:
    """To the last bit, as search stops by it."""
    asked = SearchOptions(length_penalty=kind, alpha=alpha)  # type: ignore[arg-type]
    now = torch.tensor(logprob, dtype=torch.float32)
    later = now - torch.tensor(lost, dtype=torch.float32)
    assert asked.score(later, tokens) <= asked.score(now, tokens + more)

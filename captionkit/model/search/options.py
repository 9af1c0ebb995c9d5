"""SearchOptions: how captions are searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["beam", "sample"]
LengthPenalty = Literal["none", "average", "gnmt", "reward"]
Stop = Literal["exact", "full"]


@dataclass(frozen=True)
class SearchOptions:
    """How captions are searched for.

    Lengths are counted in words; the end marker is no word. A caption that reaches `max_length` is closed there,
    without an end marker. Captions that ended rank before those that were closed.

    Raises:
        ValueError: a value out of its range, or two that exclude each other.
    """

    method: Method = "beam"
    """beam: look for the most likely captions; sample: draw captions by their likelihood."""
    beam: int = 3
    """Beam search: hypotheses kept per image. 1 takes the likeliest word each time (greedy)."""
    n_best: int = 1
    """Captions per image: the best of the beam, or that many samples, best first."""
    length_penalty: LengthPenalty = "average"
    """Ranking by log-probability: average: / tokens^alpha; gnmt: / ((5+tokens)/6)^alpha; reward: + alpha × tokens."""
    alpha: float = 1.0
    """Strength of the length penalty; 0 turns it off."""
    min_length: int = 1
    """Fewest words of a caption."""
    max_length: int = 30
    """Most words of a caption."""
    no_repeat_ngram: int = 0
    """No sequence of that many words comes twice in a caption; 0 allows repeats."""
    groups: int = 1
    """Diverse beam search: divide the beam into that many groups, which avoid each other's words."""
    diversity: float = 0.5
    """Diverse beam search: log-probability a word loses for each earlier group's hypothesis that takes it too."""
    stop: Stop = "exact"
    """exact: search until no live beam can win; full: until `beam` hypotheses have ended (faster)."""
    consensus: int = 0
    """Rank the beam by the captions of that many similar training images (`train --neighbours`); 0: off."""
    temperature: float = 1.0
    """Sampling: below 1 keeps to likely words, above 1 strays from them."""
    top_k: int = 0
    """Sampling: draw from that many likeliest words only; 0 draws from all."""
    top_p: float = 1.0
    """Sampling: draw from the likeliest words that together have this probability; 1 draws from all."""
    seed: int = 0
    """Sampling: another seed draws other captions; the same draws the same, whatever the batch."""

    def __post_init__(self) -> None:
        choices = {"method": Method, "length_penalty": LengthPenalty, "stop": Stop}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}")
        least = {
            "beam": 1,
            "n_best": 1,
            "min_length": 0,
            "max_length": 1,
            "no_repeat_ngram": 0,
            "groups": 1,
            "top_k": 0,
            "consensus": 0,
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} is a whole number of at least {lowest}, not {value!r}")
        for name in ("alpha", "diversity"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a number of at least 0, not {getattr(self, name)!r}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is a number above 0, not {self.temperature!r} (for greedy search: beam=1)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is above 0 and at most 1, not {self.top_p!r}")
        if not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number of 64 bits, not {self.seed!r}")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.method == "beam" and self.n_best > self.beam:
            raise ValueError(
                f"n_best {self.n_best} is above beam {self.beam}: a beam gives as many captions as it is wide"
            )
        if self.beam % self.groups:
            raise ValueError(f"beam {self.beam} cannot be divided into {self.groups} groups of one size")

    def score(self, logprobs: Tensor, tokens: int | Tensor) -> Tensor:
        """The scores that hypotheses are ranked by.

        With more tokens the score of a log-probability is never lower, so the score at the greatest length is an upper
        bound for a live beam.

        Args:
            logprobs: log-probabilities in nats, at most 0.
            tokens: number of words, and of end markers where hypotheses have ended.
        """
        if self.length_penalty == "average":
            return logprobs / tokens**self.alpha
        if self.length_penalty == "gnmt":  # Wu et al. 2016, arXiv:1609.08144, equation 14 without coverage
            return logprobs / ((5 + tokens) / 6) ** self.alpha
        if self.length_penalty == "reward":  # He et al. 2016, "Improved NMT with SMT features"
            return logprobs + self.alpha * tokens
        return logprobs


def beam_searches(options: SearchOptions, beams: Sequence[int]) -> dict[str, SearchOptions]:
    """Beam searches of several widths, one caption each, by name: "greedy", "beam 3".

    Args:
        options: how to search apart from the width.

    Raises:
        ValueError: no width, one twice or below 1, or one that does not fit the other options.
    """
    if not beams or min(beams) < 1 or len(set(beams)) < len(beams):
        raise ValueError(f"beam widths are different whole numbers of at least 1, not {tuple(beams)}")
    return {
        _beam_name(width, options.consensus): replace(options, method="beam", beam=width, n_best=1) for width in beams
    }


def _beam_name(width: int, consensus: int) -> str:
    name = "greedy" if width == 1 else f"beam {width}"
    return f"{name}, consensus of {consensus}" if consensus and width > 1 else name

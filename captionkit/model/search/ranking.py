"""Choosing the best, the same way every time: equal values rank in the order in which they stand."""

from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 64
"""Width of the blocks in which a vocabulary is looked through."""
_WORTH_BLOCKS = 2**15
"""Number of values below which the blocks' many small steps cost more than they save."""


class SearchResult(NamedTuple):
    """The captions found: N images, n captions each, best first, all different.

    tokens: (N, n, T) int64, words only, padded.
    lengths: (N, n) int64, words of each.
    scores: (N, n) fp32, what they are ranked by; -inf where an image has fewer than n captions.
    logprobs: (N, n) fp32, mean nats per token, the end marker counted where the caption ended.
    ended: (N, n) bool, whether the model ended the caption; the others were cut, and rank after those.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    logprobs: Tensor
    ended: Tensor


def top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of the last axis of fp32 values, greatest first, and their places.

    Of equal values the first ranks first, on every device and for every k, which `torch.topk` does not promise. Many
    long rows are looked through in blocks, several times faster than `torch.topk` does it on a CPU: the k greatest
    values can only be in the k blocks with the greatest maxima.
    """
    size = values.shape[-1]
    if size <= _BLOCK:
        best, places = values.sort(dim=-1, descending=True, stable=True)
        return best[..., :k], places[..., :k]
    if size < 4 * k * _BLOCK or values.numel() < _WORTH_BLOCKS:
        places = _places_of_top(values, min(k, size))
        return values.gather(-1, places), places
    whole = size - size % _BLOCK
    maxima = values[..., :whole].view(*values.shape[:-1], -1, _BLOCK).amax(dim=-1)
    if whole < size:
        maxima = torch.cat([maxima, values[..., whole:].amax(dim=-1, keepdim=True)], dim=-1)
    blocks = top(maxima, k)[1].sort(dim=-1).values  # in their order, for the sake of equal values
    within = torch.arange(_BLOCK, device=values.device)
    candidates = (blocks.unsqueeze(-1) * _BLOCK + within).flatten(-2)
    beyond = candidates >= size  # the last block may be shorter
    candidates = candidates.clamp_max(size - 1)
    found = values.gather(-1, candidates).masked_fill(beyond, -torch.inf)
    best = _places_of_top(found, k)
    return found.gather(-1, best), candidates.gather(-1, best)


def _places_of_top(values: Tensor, k: int) -> Tensor:
    """One integer per value, unique and in the order wanted: the float's bits above, its place from the end below."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    place = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    return ((ordered.to(torch.int64) << 32) | place).topk(k, dim=-1).indices


def take(values: Tensor, places: Tensor) -> Tensor:
    """Gather along axis `places.dim() - 1`; axes of `values` after that one come along whole."""
    axis = places.dim() - 1
    shape = places.shape + values.shape[places.dim() :]
    return values.gather(axis, places.reshape(places.shape + (1,) * (values.dim() - places.dim())).expand(shape))


def without_repeats(scores: Tensor, tokens: Tensor) -> Tensor:
    """Scores (N, m) of hypotheses with tokens (N, m, T), -inf for those that are like an earlier one."""
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).all(dim=-1) & (scores > -torch.inf).unsqueeze(1)
    return scores.masked_fill(same.tril(diagonal=-1).any(dim=-1), -torch.inf)


def best(result: SearchResult, n: int, rounds: Tensor | None = None) -> SearchResult:
    """Of (N, m) hypotheses in any order the n best, best first.

    With `rounds` (N, m) those of the lowest round are taken before all others.
    """
    # Once to choose n of them, once more to put these in order where the rounds have mixed it up.
    chosen = SearchResult(*(values[:, :n] for values in _in_order(result, rounds)))
    return chosen if rounds is None else _in_order(chosen)


def _in_order(result: SearchResult, rounds: Tensor | None = None) -> SearchResult:
    """Those that there are, by round, the ended ones, by score."""
    keys = [-result.scores, ~result.ended, *([] if rounds is None else [rounds]), result.scores == -torch.inf]
    order = torch.arange(result.scores.shape[1], device=result.scores.device).expand_as(result.scores)
    for key in keys:  # the most important one last, as each sort keeps the order of what it finds equal
        order = order.gather(1, key.to(torch.float32).gather(1, order).argsort(dim=1, stable=True))
    return SearchResult(*(take(values, order) for values in result))

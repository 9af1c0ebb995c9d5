"""Choosing the best, the same way every time: equal values rank in the order in which they stand.

Letters of shapes: N images, m hypotheses of an image, T tokens of a caption, k chosen values.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from captionkit.model.tuning import TOPK_BLOCK, TOPK_MIN_VALUES


class SearchResult(NamedTuple):
    """The captions of N images: n each, best first, all different."""

    tokens: Tensor
    """(N, n, T) int64, words only, padded."""
    lengths: Tensor
    """(N, n) int64, words of each."""
    scores: Tensor
    """(N, n) fp32, what they are ranked by; -inf where an image has fewer than n captions."""
    logprobs: Tensor
    """(N, n) fp32, mean nats per token, the end marker counted where the caption ended."""
    ended: Tensor
    """(N, n) bool, whether the model ended the caption; the others were closed at `max_length`, and rank after those.
    """


def stable_topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of the last axis of fp32 values, greatest first, and their indices.

    Of equal values the first ranks first, on every device and for every k, which `torch.topk` does not promise. Many
    long rows are looked through in blocks, several times faster than by `torch.topk` on a CPU: the k greatest values
    can only be in the k blocks with the greatest maxima.
    """
    size = values.shape[-1]
    if size <= TOPK_BLOCK:
        best, indices = values.sort(dim=-1, descending=True, stable=True)
        return best[..., :k], indices[..., :k]
    if size < 4 * k * TOPK_BLOCK or values.numel() < TOPK_MIN_VALUES:
        indices = _stable_topk_indices(values, min(k, size))
        return values.gather(-1, indices), indices
    full = size - size % TOPK_BLOCK
    maxima = values[..., :full].view(*values.shape[:-1], -1, TOPK_BLOCK).amax(dim=-1)
    if full < size:
        maxima = torch.cat([maxima, values[..., full:].amax(dim=-1, keepdim=True)], dim=-1)
    blocks = stable_topk(maxima, k)[1].sort(dim=-1).values  # in their order, for the sake of equal values
    within = torch.arange(TOPK_BLOCK, device=values.device)
    indices = (blocks.unsqueeze(-1) * TOPK_BLOCK + within).flatten(-2)
    is_beyond = indices >= size  # the last block may be shorter
    indices = indices.clamp_max(size - 1)
    candidates = values.gather(-1, indices).masked_fill(is_beyond, -torch.inf)
    best = _stable_topk_indices(candidates, k)
    return candidates.gather(-1, best), indices.gather(-1, best)


def _stable_topk_indices(values: Tensor, k: int) -> Tensor:
    """By one unique integer per value, in the right order: the float's bits, then its index counted from the end."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    from_end = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    return ((ordered.to(torch.int64) << 32) | from_end).topk(k, dim=-1).indices


def gather_beams(values: Tensor, indices: Tensor) -> Tensor:
    """Gather along the last axis of `indices`; further axes of `values`, as that of tokens, are kept."""
    axis = indices.dim() - 1
    shape = indices.shape + values.shape[indices.dim() :]
    return values.gather(axis, indices.reshape(indices.shape + (1,) * (values.dim() - indices.dim())).expand(shape))


def mask_duplicates(scores_Nm: Tensor, tokens_NmT: Tensor) -> Tensor:
    """The scores, -inf for hypotheses with the tokens of an earlier one."""
    is_equal_Nmm = (tokens_NmT.unsqueeze(2) == tokens_NmT.unsqueeze(1)).all(dim=-1)
    is_equal_Nmm &= (scores_Nm > -torch.inf).unsqueeze(1)
    return scores_Nm.masked_fill(is_equal_Nmm.tril(diagonal=-1).any(dim=-1), -torch.inf)


def n_best(result: SearchResult, n: int, rounds_Nm: Tensor | None = None) -> SearchResult:
    """The n best of m hypotheses in any order, best first.

    Args:
        rounds_Nm: those of the lowest round are chosen before all others.
    """
    # Sorted once to choose n of them, and again by score alone, as rounds come before scores in the first order.
    chosen = SearchResult(*(values[:, :n] for values in _sort(result, rounds_Nm)))
    return chosen if rounds_Nm is None else _sort(chosen)


def _sort(result: SearchResult, rounds_Nm: Tensor | None = None) -> SearchResult:
    """Hypotheses that exist first, then by round, then those that ended, then by score."""
    rounds = [] if rounds_Nm is None else [rounds_Nm]
    keys = [-result.scores, ~result.ended, *rounds, result.scores == -torch.inf]
    order_Nm = torch.arange(result.scores.shape[1], device=result.scores.device).expand_as(result.scores)
    for key_Nm in keys:  # the most important key last, as stable sorts keep the order of equal values
        order = key_Nm.to(torch.float32).gather(1, order_Nm).argsort(dim=1, stable=True)
        order_Nm = order_Nm.gather(1, order)
    return SearchResult(*(gather_beams(values, order_Nm) for values in result))

"""Sampling captions, so that an image gets the same ones whatever else is in its batch.

Randomness comes from no generator, which a batch would share, but from a hash of the seed, the image's key, the number
of the sample, the position in the caption and the token: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"). It becomes Gumbel noise, and the token with the greatest sum of logit and noise is
drawn, which is the same as drawing by softmax (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030).

As a token's noise does not depend on the other tokens, a small difference of the logits seldom changes the caption.

Letters of shapes: N images, S samples of each, Q = N × S samples in all, R of them not ended, V words, M tokens looked
at per row, T tokens of a caption.
"""

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, State
from captionkit.model.search.constraints import SearchConstraints, log_softmax, repeat_rows, select_rows
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult, mask_duplicates, n_best, stable_topk
from captionkit.model.tuning import NUCLEUS_GUESS, STEPS_PER_CHECK, WORTH_COMPACTING


def sample(decoder: Decoder, features: Tensor, constraints: SearchConstraints, keys_N: Tensor) -> SearchResult:
    """Draw captions of N images; `captionkit.model.search.search` has checked the arguments.

    Equal samples of an image are returned once.
    """
    options, device, images, samples = constraints.options, features.device, len(features), constraints.options.n_best
    max_length = constraints.max_length
    begun, state, *sums_and_tokens = constraints.begin(decoder, features)
    logprobs_RV, sums_Q, tokens_QT = (v.repeat_interleave(samples, dim=0) for v in (begun, *sums_and_tokens))
    state = State(repeat_rows(state.carry, samples), repeat_rows(state.memory, samples))
    image_seeds_N = _mix(_mix(torch.tensor(options.seed, device=device)) ^ keys_N)
    seeds_Q = _mix(image_seeds_N.unsqueeze(1) + torch.arange(samples, device=device)).flatten()
    lengths_Q = torch.full_like(seeds_Q, max_length)
    rows_R = torch.arange(images * samples, device=device)  # those that have not ended, as indices of Q
    for length in range(len(constraints.prefix), max_length):
        logprobs_RV = constraints.mask_forbidden(logprobs_RV, tokens_QT.index_select(0, rows_R), length)
        drawn_R = _draw(logprobs_RV, options, _mix(seeds_Q[rows_R] + length))
        is_open_R, is_end_R = lengths_Q[rows_R] == max_length, drawn_R == constraints.eos
        sums_Q[rows_R] += torch.where(is_open_R, logprobs_RV.gather(1, drawn_R.unsqueeze(1)).squeeze(1), 0.0)
        lengths_Q[rows_R] = torch.where(is_open_R & is_end_R, length, lengths_Q[rows_R])
        is_open_R = is_open_R & ~is_end_R
        tokens_QT[rows_R, length] = torch.where(is_open_R, drawn_R, constraints.pad)
        if length + 1 == max_length:
            break
        if device.type == "cpu" or (length + 1) % STEPS_PER_CHECK == 0:
            open_rows = int(is_open_R.sum())
            if open_rows == 0:
                break
            if open_rows <= WORTH_COMPACTING * len(rows_R):
                kept = is_open_R.nonzero().squeeze(1)
                rows_R = rows_R.index_select(0, kept)
                state = State(select_rows(state.carry, kept), select_rows(state.memory, kept))
        logits_RV, state = decoder.step(tokens_QT[rows_R, length], state)
        logprobs_RV = log_softmax(logits_RV)

    sums_Q = sums_Q.masked_fill(sums_Q.isnan(), -torch.inf)  # a decoder may fail on one image only
    scores_Q = options.score(sums_Q, lengths_Q + (lengths_Q < max_length))
    scores_NS, sums_NS, lengths_NS, tokens_NST = (
        values.view(images, samples, *values.shape[1:]) for values in (scores_Q, sums_Q, lengths_Q, tokens_QT)
    )
    scores_NS = mask_duplicates(scores_NS, tokens_NST)
    return n_best(constraints.to_result(scores_NS, sums_NS, lengths_NS, tokens_NST), samples)


def _draw(logprobs_RV: Tensor, options: SearchOptions, seeds_R: Tensor) -> Tensor:
    """One token (R,) for each row."""
    values = logprobs_RV / options.temperature
    tokens = torch.arange(values.shape[1], device=values.device).expand_as(values)
    if options.top_k:
        values, tokens = stable_topk(values, options.top_k)
    if options.top_p < 1:
        total_R1 = values.logsumexp(dim=1, keepdim=True)
        if not options.top_k:
            values, tokens = _likeliest(values, options.top_p, total_R1)
        probabilities = (values - total_R1).exp()
        values = values.masked_fill(probabilities.cumsum(dim=1) - probabilities >= options.top_p, -torch.inf)
    # 23 bits, so that the greatest is still below 1 in fp32.
    uniform = (((_mix(seeds_R.unsqueeze(1) + tokens) >> 41) & (2**23 - 1)).to(torch.float32) + 0.5) / 2**23
    _, index_R1 = stable_topk(values - (-uniform.log()).log(), 1)
    return tokens.gather(1, index_R1).squeeze(1)


def _likeliest(values_RV: Tensor, top_p: float, total_R1: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens and their values (R, M), at least as many as together have the probability `top_p`.

    A guess is looked at on a CPU alone: elsewhere the host would have to wait for the device at every step.
    """
    if values_RV.device.type != "cpu":
        return stable_topk(values_RV, values_RV.shape[1])
    guess = stable_topk(values_RV, NUCLEUS_GUESS)
    if guess[0].shape == values_RV.shape or bool(((guess[0] - total_R1).exp().sum(dim=1) > top_p).all()):
        return guess
    return stable_topk(values_RV, values_RV.shape[1])


def _mix(numbers: Tensor) -> Tensor:
    """SplitMix64's step and finaliser, in int64 that wraps around."""
    mixed = numbers + _to_signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shift_right(mixed, 30)) * _to_signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift_right(mixed, 27)) * _to_signed(0x94D049BB133111EB)
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(numbers: Tensor, by: int) -> Tensor:
    """Logical shift: zeros come in."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)


def _to_signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number

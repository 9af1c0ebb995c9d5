"""Sampling captions, so that an image gets the same ones whatever else is in its batch.

Chance comes from no generator that a batch would share, but from a hash of the seed, the image's key, the number
of the sample, the place in the caption and the word: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"). It becomes Gumbel noise, and the word with the greatest sum of logit and noise is
drawn, which is the same as drawing by softmax (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030).

As a word's noise does not depend on the other words, a small difference of the logits seldom changes the caption.

Shapes: N images, S samples each, R = N × S rows, M words looked at per row, V words, T places of a caption.
"""

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, State
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult, best, top, without_repeats
from captionkit.model.search.rules import (
    STEPS_PER_CHECK,
    WORTH_COMPACTING,
    Rules,
    finished,
    log_softmax,
    repeat,
    select,
)

_NUCLEUS_GUESS = 256
"""Words among which `top_p` is looked for first; a vocabulary is sorted only where that is not enough."""


def sample(decoder: Decoder, features: Tensor, rules: Rules, keys: Tensor) -> SearchResult:
    """Draw captions of N images; the arguments have been checked by `captionkit.model.search.search`.

    Equal samples of an image are returned once.
    """
    options, device, images, samples = rules.options, features.device, len(features), rules.options.n_best
    logprobs, state, sums, said = rules.begin(decoder, features)
    logprobs, sums, said = (values.repeat_interleave(samples, dim=0) for values in (logprobs, sums, said))
    state = State(repeat(state.carry, samples), repeat(state.memory, samples))
    image_seeds = _mix(_mix(torch.tensor(options.seed, device=device)) ^ keys)
    seeds = _mix(image_seeds.unsqueeze(1) + torch.arange(samples, device=device)).flatten()
    lengths = torch.full_like(seeds, rules.limit)
    rows = torch.arange(images * samples, device=device)  # those still drawn, of all
    for words in range(len(rules.prefix), rules.limit):
        logprobs = rules.forbid(logprobs, said.index_select(0, rows), words)
        drawn = _draw(logprobs, options, _mix(seeds[rows] + words))
        is_open, is_end = lengths[rows] == rules.limit, drawn == rules.eos
        sums[rows] += torch.where(is_open, logprobs.gather(1, drawn.unsqueeze(1)).squeeze(1), 0.0)
        lengths[rows] = torch.where(is_open & is_end, words, lengths[rows])
        is_open = is_open & ~is_end
        said[rows, words] = torch.where(is_open, drawn, rules.pad)
        if words + 1 == rules.limit:
            break
        if device.type == "cpu" or (words + 1) % STEPS_PER_CHECK == 0:
            left = int(is_open.sum())
            if left == 0:
                break
            if left <= WORTH_COMPACTING * len(rows):
                kept = is_open.nonzero().squeeze(1)
                rows = rows.index_select(0, kept)
                state = State(select(state.carry, kept), select(state.memory, kept))
        logits, state = decoder.step(said[rows, words], state)
        logprobs = log_softmax(logits)

    sums = sums.masked_fill(sums.isnan(), -torch.inf)  # a decoder that fails on an image loses that one
    ended = lengths < rules.limit
    scores = options.score(sums, lengths + ended)
    scores, sums, lengths, said = (v.view(images, samples, *v.shape[1:]) for v in (scores, sums, lengths, said))
    return best(finished(rules, without_repeats(scores, said), sums, lengths, said), samples)


def _draw(logprobs: Tensor, options: SearchOptions, seeds: Tensor) -> Tensor:
    """One word (R,) for each row of log-probabilities (R, V)."""
    values = logprobs / options.temperature
    words = torch.arange(values.shape[1], device=values.device).expand_as(values)
    if options.top_k:
        values, words = top(values, options.top_k)
    if options.top_p < 1:
        total = values.logsumexp(dim=1, keepdim=True)
        if not options.top_k:
            values, words = _likeliest(values, options.top_p, total)
        shares = (values - total).exp()
        values = values.masked_fill(shares.cumsum(dim=1) - shares >= options.top_p, -torch.inf)
    # 23 bits, so that the greatest is still below 1 in fp32.
    uniform = (((_mix(seeds.unsqueeze(1) + words) >> 41) & (2**23 - 1)).to(torch.float32) + 0.5) / 2**23
    _, place = top(values - (-uniform.log()).log(), 1)
    return words.gather(1, place).squeeze(1)


def _likeliest(values: Tensor, top_p: float, total: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest words, at least as many as together have the share `top_p`."""
    guess = top(values, _NUCLEUS_GUESS)
    if guess[0].shape == values.shape or bool(((guess[0] - total).exp().sum(dim=1) > top_p).all()):
        return guess
    return top(values, values.shape[1])


def _mix(numbers: Tensor) -> Tensor:
    """SplitMix64's step and finaliser, in int64 that wraps around."""
    mixed = numbers + _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shift(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shift(mixed, 31)


def _shift(numbers: Tensor, by: int) -> Tensor:
    """Shift right, zeros coming in."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number

"""Self-critical sequence training: captions are drawn, judged by CIDEr-D, and made likelier the better they are.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning"; with several samples of each image the
baseline is the mean of the others (Luo 2020, "A Better Variant of Self-Critical Sequence Training").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captionkit.metrics.cider import CiderD
from captionkit.model.decoders import Decoder, State
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.search import search
from captionkit.vocabulary import BOS, EOS, PAD, UNK


@torch.no_grad()
def draw(decoder: Decoder, features: Tensor, samples: int, longest: int) -> Tensor:
    """Captions drawn word by word from the decoder's probabilities, `samples` of each image, equal ones kept.

    (`captionkit.model.search` draws too, but leaves out equal ones, which would bias the gradient.)

    Returns:
        (N × samples, T) int64 between markers, padded; one of `longest` words has no end marker.
    """
    state = _repeat(decoder.start(features), samples)
    rows = len(features) * samples
    word = torch.full((rows,), BOS, dtype=torch.int64, device=features.device)
    is_open = torch.ones(rows, dtype=torch.bool, device=features.device)
    said = [word]
    for _ in range(min(longest, decoder.max_steps or longest)):
        logits, state = decoder.step(word, state)
        logits = logits.float()
        logits[:, [PAD, BOS, UNK]] = -torch.inf
        # By the inverse of the distribution: `multinomial` draws a number for every word, and was a third of a step.
        reached = logits.softmax(dim=1).cumsum(dim=1)
        drawn = torch.rand(rows, 1, device=features.device) * reached[:, -1:]
        word = torch.searchsorted(reached, drawn, right=True).squeeze(1).clamp_(max=reached.shape[1] - 1)
        said.append(torch.where(is_open, word, PAD))
        is_open = is_open & (word != EOS)
        if not is_open.any():
            break
    return torch.stack(said, dim=1)


def _repeat(state: State, samples: int) -> State:
    return State(*({k: v.repeat_interleave(samples, dim=0) for k, v in part.items()} for part in state))


@torch.no_grad()
def greedy(decoder: Decoder, features: Tensor, longest: int) -> Tensor:
    """The likeliest word each time: (N, T) as `draw` gives them."""
    options = SearchOptions(beam=1, max_length=longest, min_length=0)
    found = search(decoder, features, options, bos=BOS, eos=EOS, pad=PAD, banned=[UNK])
    words, lengths = found.tokens[:, 0], found.lengths[:, 0]
    body = torch.cat([words, words.new_full((len(words), 1), PAD)], dim=1)
    body[torch.arange(len(body)), lengths] = torch.where(found.ended[:, 0], EOS, PAD)
    return torch.cat([body.new_full((len(body), 1), BOS), body], dim=1)


def words_of(tokens: Sequence[int]) -> list[int]:
    """What is judged: the words and the end marker. Without it, captions that break off ("a dog on a") lose nothing."""
    ids = [token for token in tokens if token not in (BOS, PAD)]
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def rewards(cider: CiderD, images: Sequence[int], captions: Tensor) -> Tensor:
    """CIDEr-D of captions against their images' references, 10 at best: (N × S,) fp32, on the captions' device.

    Args:
        images: (N,) indices of the images in `cider`'s references.
        captions: (N × S, T) as `draw` gives them.
    """
    each = len(captions) // len(images)
    rows = np.repeat(np.asarray(images), each).tolist()
    scores = cider.score([words_of(caption) for caption in captions.tolist()], rows)
    return torch.as_tensor(scores, dtype=torch.float32, device=captions.device)


def advantages(rewards: Tensor, baseline: Tensor | None) -> Tensor:
    """How much better each sampled caption is than its baseline: (N, S).

    Args:
        rewards: (N, S) of S captions drawn of each image.
        baseline: (N,) rewards of the greedy captions; None for the mean of the other samples, S > 1.
    """
    if baseline is not None:
        return rewards - baseline.unsqueeze(1)
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)

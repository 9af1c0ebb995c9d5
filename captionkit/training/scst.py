"""Self-critical sequence training: captions are sampled, and CIDEr-D is their reward.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning". With several samples per image, the baseline
of each is the mean reward of the others (Luo 2020, "A Better Variant of Self-Critical Sequence Training").
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
def sample_captions(decoder: Decoder, features: Tensor, samples: int, longest: int) -> Tensor:
    """Sample captions word by word from the decoder's distribution, `samples` per image. Duplicates are kept.

    (`captionkit.model.search` samples too, but drops duplicates, which would bias the gradient.)

    Args:
        features: (N, …).
        longest: highest number of words.

    Returns:
        (N × samples, T) int64 between markers, padded. A caption of `longest` words has no end marker.
    """
    state = _repeat(decoder.start(features), samples)
    rows = len(features) * samples
    word = torch.full((rows,), BOS, dtype=torch.int64, device=features.device)
    is_open = torch.ones(rows, dtype=torch.bool, device=features.device)
    tokens = [word]
    for _ in range(min(longest, decoder.max_steps or longest)):
        logits, state = decoder.step(word, state)
        logits = logits.float()
        logits[:, [PAD, BOS, UNK]] = -torch.inf
        # Inverse transform sampling: `multinomial` draws a random number per word, and took a third of a step.
        cumulative = logits.softmax(dim=1).cumsum(dim=1)
        drawn = torch.rand(rows, 1, device=features.device) * cumulative[:, -1:]
        word = torch.searchsorted(cumulative, drawn, right=True).squeeze(1).clamp_(max=cumulative.shape[1] - 1)
        tokens.append(torch.where(is_open, word, PAD))
        is_open = is_open & (word != EOS)
        if not is_open.any():
            break
    return torch.stack(tokens, dim=1)


def _repeat(state: State, samples: int) -> State:
    return State(*({k: v.repeat_interleave(samples, dim=0) for k, v in part.items()} for part in state))


@torch.no_grad()
def greedy_captions(decoder: Decoder, features: Tensor, longest: int) -> Tensor:
    """Captions by greedy search: (N, T) in the form of `sample_captions`."""
    options = SearchOptions(beam=1, max_length=longest, min_length=0)
    result = search(decoder, features, options, bos=BOS, eos=EOS, pad=PAD, banned=[UNK])
    words, lengths = result.tokens[:, 0], result.lengths[:, 0]
    body = torch.cat([words, words.new_full((len(words), 1), PAD)], dim=1)
    body[torch.arange(len(body)), lengths] = torch.where(result.ended[:, 0], EOS, PAD)
    return torch.cat([body.new_full((len(body), 1), BOS), body], dim=1)


def rewarded_tokens(tokens: Sequence[int]) -> list[int]:
    """The tokens that are rewarded: words and end marker.

    Without the marker, unfinished captions ("a dog on a") would not lose reward.
    """
    ids = [token for token in tokens if token not in (BOS, PAD)]
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def rewards(cider: CiderD, images: Sequence[int], captions: Tensor) -> Tensor:
    """CIDEr-D of captions against their images' references, 0 to 10: (N × S,) fp32, on the captions' device.

    Args:
        images: N indices into `cider`'s references.
        captions: (N × S, T) in the form of `sample_captions`.
    """
    each = len(captions) // len(images)
    rows = np.repeat(np.asarray(images), each).tolist()
    scores = cider.score([rewarded_tokens(caption) for caption in captions.tolist()], rows)
    return torch.as_tensor(scores, dtype=torch.float32, device=captions.device)


def advantages(rewards: Tensor, baseline: Tensor | None) -> Tensor:
    """Reward minus baseline of each sampled caption: (N, S).

    Args:
        rewards: (N, S) of S captions sampled per image.
        baseline: (N,) rewards of the greedy captions; None for the mean reward of the other samples (S > 1).
    """
    if baseline is not None:
        return rewards - baseline.unsqueeze(1)
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)

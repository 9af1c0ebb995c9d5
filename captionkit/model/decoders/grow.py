"""A decoder with more words than it was trained with."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch

from captionkit.model.decoders.base import Decoder


def with_more_words(decoder: Decoder, count: int, like: int) -> Decoder:
    """The decoder with `count` words behind its own, to be trained on captions that have them.

    Each begins as another word, the unknown one, which stood for it until now; they share its probability.

    Args:
        like: the id of that word.
    """
    config = type(decoder.config)(**asdict(decoder.config) | {"vocab_size": decoder.vocab_size + count})
    grown = type(decoder)(config)
    state, sizes = decoder.state_dict(), grown.state_dict()
    for name, tensor in state.items():
        if tensor.shape == sizes[name].shape:
            continue
        row = tensor[like] - math.log(count + 1) if tensor.dim() == 1 else tensor[like]  # of biases a share
        state[name] = torch.cat([tensor, row.expand(count, *tensor.shape[1:])])
        if tensor.dim() == 1:
            state[name][like] = row
    grown.load_state_dict(state)
    return grown.train(decoder.training)

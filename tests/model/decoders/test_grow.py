"""A decoder that learns more words than it was trained with."""

from __future__ import annotations

import math

import pytest
import torch

from captionkit.model.decoders import DECODERS, build_decoder, with_more_words

V, D, LIKE = 11, 6, 3


@pytest.mark.parametrize("name", [*DECODERS, "tied"])
def test_old_words_keep_their_logits_and_new_ones_share_that_of_the_unknown(name: str) -> None:
    torch.manual_seed(0)
    config = {"vocab_size": V, "feature_size": D}
    family = "top_down" if name == "tied" else name
    if name == "tied":
        config |= {"tied": True, "embed_size": 8, "hidden_size": 8}
    decoder = build_decoder(family, config).eval()
    for parameter in decoder.parameters():
        if parameter.shape[:1] == (V,):  # biases begin at 0 in some families, where a share could not be seen
            torch.nn.init.normal_(parameter)
    grown = with_more_words(decoder, 4, LIKE)
    assert grown.vocab_size == V + 4
    assert not grown.training
    features = torch.randn(2, 5, D) if decoder.feature_kind == "grid" else torch.randn(2, D)
    tokens = torch.tensor([[1, 5, 4], [1, 6, 2]])
    with torch.no_grad():
        before, after = decoder(features, tokens), grown(features, tokens)
    others = [word for word in range(V) if word != LIKE]
    torch.testing.assert_close(after[..., others], before[..., others])
    for word in (LIKE, V, V + 3):
        torch.testing.assert_close(after[..., word], before[..., LIKE] - math.log(5))
    # So all other words are as likely as before.
    torch.testing.assert_close(after.logsumexp(-1), before.logsumexp(-1))

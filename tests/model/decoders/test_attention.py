"""Attention: where decoders look in the grid."""

import pytest
import torch

from captionkit.model.decoders import AttentionDecoder
from captionkit.model.decoders.recurrent import lstm_cell
from tests.model.decoders.families import PLACES, SMALL, captions, features_for, small

KINDS = [kind for kind in SMALL if isinstance(small(kind), AttentionDecoder)]


def sharp(kind: str) -> AttentionDecoder:
    decoder = small(kind)
    assert isinstance(decoder, AttentionDecoder)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)  # untrained, it attends to all places alike
    return decoder.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_adds_up_to_one_and_changes_with_the_words(kind: str) -> None:
    decoder = sharp(kind)
    features, tokens = features_for(decoder, 3), captions(3)
    logits, attention = decoder.attend(features, tokens)
    assert torch.equal(logits, decoder(features, tokens))
    assert attention.shape == (3, 8, PLACES)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 8))
    assert (attention.std(dim=1) > 1e-3).any(dim=1).all()
    maps = decoder.attention_maps(features, tokens)
    assert torch.equal(maps, attention)
    assert not maps.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_attention_follows_the_places(kind: str) -> None:
    decoder = sharp(kind)
    features, tokens = features_for(decoder, 2), captions(2)
    logits, attention = decoder.attend(features, tokens)
    order = torch.randperm(PLACES)
    moved_logits, moved = decoder.attend(features[:, order], tokens)
    torch.testing.assert_close(moved, attention[:, :, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved_logits, logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_our_lstm_cell_is_torchs() -> None:
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(5, 7)
    inputs, hidden, memory = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    gates = inputs @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
    torch.testing.assert_close(lstm_cell(gates, memory), cell(inputs, (hidden, memory)))

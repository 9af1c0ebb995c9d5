"""Attention: where decoders look in the grid."""

import pytest
import torch
from torch import Tensor

from captionkit.model.decoders import AttentionDecoder
from captionkit.model.decoders.recurrent import lstm_cell
from captionkit.model.search import SearchOptions
from captionkit.model.search.search import search
from tests.model.decoders.families import PLACES, SMALL, captions, features_for, small
from tests.model.search.slow_search import Task, read, slow_beam

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


@pytest.mark.parametrize("options", [SearchOptions(beam=4, n_best=3, max_length=6), SearchOptions(beam=4, groups=2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_reads_the_grid_once_for_each_image(
    kind: str, options: SearchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, rows = sharp(kind), []
    features = features_for(decoder, 5)
    attend = decoder.attention.forward

    def spy(query: Tensor, keys: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        rows.append((len(query), len(keys), len(grid)))
        return attend(query, keys, grid)

    monkeypatch.setattr(decoder.attention, "forward", spy)
    found = search(decoder, features, options, bos=1, eos=2, pad=0)
    assert rows[0] == (5, 5, 5)
    assert all(query == 4 * keys == 4 * grid for query, keys, grid in rows[1:])
    # As when each hypothesis has a grid of its own, but for the last bits of the sums.
    monkeypatch.setattr(AttentionDecoder, "shared_memory", frozenset())
    apart = search(decoder, features, options, bos=1, eos=2, pad=0)
    assert rows[-1][0] == rows[-1][1]
    assert torch.equal(found.tokens, apart.tokens)
    torch.testing.assert_close(found.scores, apart.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_is_the_slow_one(kind: str) -> None:
    decoder = sharp(kind)
    task = Task(decoder, features_for(decoder, 3), SearchOptions(beam=3, n_best=3, max_length=5))
    with torch.no_grad():
        result = task.run()
        for image in range(3):
            expected = slow_beam(task, image)
            assert [found.words for found in read(result, image)] == [slow.words for slow in expected]
            assert [f.score for f in read(result, image)] == pytest.approx([s.score for s in expected], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_images_can_be_attended_to(kind: str) -> None:
    decoder = sharp(kind)
    logits, attention = decoder.attend(features_for(decoder, 3)[:0], captions(3)[:0])
    assert (len(logits), attention.shape) == (0, (0, 8, PLACES))


@torch.no_grad()
def test_our_lstm_cell_is_torchs() -> None:
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(5, 7)
    inputs, hidden, memory = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    gates = inputs @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
    torch.testing.assert_close(lstm_cell(gates, memory), cell(inputs, (hidden, memory)))


@torch.no_grad()
def test_of_two_candidates_the_larger_one_counts() -> None:
    gates = torch.tensor([[0.0, 0.0, 3.0, 5.0, 0.0], [0.0, 0.0, 7.0, -5.0, 0.0]])
    hidden, cell = lstm_cell(gates, torch.tensor([[4.0], [4.0]]))
    torch.testing.assert_close(cell, torch.tensor([[4.5], [5.5]]))
    torch.testing.assert_close(hidden, cell.tanh() / 2)

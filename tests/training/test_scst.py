"""Drawing captions and rewarding them."""

from __future__ import annotations

import pytest
import torch

from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.model.decoders import build_decoder
from captionkit.training.scst import advantages, greedy_captions, rewarded_tokens, rewards, sample_captions
from captionkit.vocabulary import BOS, EOS, PAD, UNK


def decoder():  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    return build_decoder("show_tell", {"vocab_size": 9, "feature_size": 4, "embed_size": 6, "hidden_size": 8}).eval()


@pytest.mark.parametrize("longest", [1, 3, 12])
def test_drawn_captions_stand_between_markers(longest: int) -> None:
    torch.manual_seed(0)
    drawn = sample_captions(decoder(), torch.randn(5, 4), samples=4, longest=longest)
    assert len(drawn) == 20
    assert (drawn[:, 0] == BOS).all()
    assert drawn.shape[1] <= longest + 1
    for caption in drawn[:, 1:].tolist():
        ids = [token for token in caption if token != PAD]
        assert UNK not in ids
        assert BOS not in ids
        assert EOS not in ids[:-1]
        assert ids[-1] == EOS or len(ids) == longest
        assert caption[len(ids) :] == [PAD] * (len(caption) - len(ids))


def test_words_are_drawn_by_their_probability() -> None:
    torch.manual_seed(0)
    network, features = decoder(), torch.randn(1, 4)
    first = sample_captions(network, features, samples=4000, longest=1)[:, 1]
    logits, _ = network.step(torch.tensor([BOS]), network.start(features))
    logits[:, [PAD, BOS, UNK]] = -torch.inf
    expected = logits.softmax(1)[0]
    counts = torch.bincount(first, minlength=9) / 4000
    assert torch.allclose(counts, expected, atol=0.04)


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    network, features = decoder(), torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    found = greedy_captions(network, features, longest=5)
    for row, caption in enumerate(found.tolist()):
        state, word = network.start(features[row : row + 1]), torch.tensor([BOS])
        for token in rewarded_tokens(caption):
            logits, state = network.step(word, state)
            logits[:, [PAD, BOS, UNK]] = -torch.inf
            assert int(logits.argmax()) == token
            word = torch.tensor([token])


def test_a_caption_that_breaks_off_is_worth_less() -> None:
    references = [[[4, 5, 6, EOS]], [[7, 8, EOS]]]
    cider = CiderD(references, DocumentFrequencies.of(references))
    whole, broken = [BOS, 4, 5, 6, EOS], [BOS, 4, 5, 6, PAD]
    found = rewards(cider, [0], torch.tensor([whole, broken]))
    assert float(found[0]) == pytest.approx(10.0, rel=1e-5)
    assert float(found[1]) < float(found[0])


def test_baselines() -> None:
    found = torch.tensor([[1.0, 2.0, 6.0]])
    assert advantages(found, torch.tensor([2.0])).tolist() == [[-1.0, 0.0, 4.0]]
    assert advantages(found, None).tolist() == [[-3.0, -1.5, 4.5]]

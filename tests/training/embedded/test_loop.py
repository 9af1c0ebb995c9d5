import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from captionkit.model.decoders import ShowTell
from captionkit.training.batches import pad_tokens
from captionkit.training.embedded.loop import LoopOptions, Point, caption_loss, fit, teacher_forcing
from captionkit.vocabulary import EOS


def test_padding_does_not_count() -> None:
    tokens = pad_tokens([[5, 6, 7], [8]])
    logits = torch.randn(2, 4, 10)
    by_hand = [
        -logits[row, at].log_softmax(-1)[word].item()
        for row, words in enumerate(([5, 6, 7, EOS], [8, EOS]))
        for at, word in enumerate(words)
    ]
    assert caption_loss(logits, tokens).item() == pytest.approx(sum(by_hand) / 6, rel=1e-5)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    features = torch.eye(6)
    tokens = pad_tokens([[4 + n, 5 + n, 9 - n] for n in range(6)])
    while True:
        yield features, tokens


def test_a_decoder_learns_six_captions_by_heart_the_same_way_each_time() -> None:
    curves: list[list[Point]] = []
    for _ in range(2):
        torch.manual_seed(0)
        decoder = ShowTell(ShowTell.Config(vocab_size=12, feature_size=6, embed_size=16, hidden_size=24, dropout=0.0))
        seen: list[Point] = []
        curve = fit(decoder, teacher_forcing(decoder), batches(), LoopOptions(300, 1e-2), seen.append, every=80)
        assert curve == seen
        assert [point.step for point in curve] == [80, 160, 240, 300]
        assert not decoder.training
        curves.append(curve)
    assert curves[0] == curves[1]
    assert curves[0][0].loss > 1
    assert curves[0][-1].loss < 0.1
    features, tokens = next(batches())
    assert torch.equal(decoder(features, tokens[:, :-1]).argmax(-1), tokens[:, 1:])


def test_frozen_parameters_stay() -> None:
    decoder = ShowTell(ShowTell.Config(vocab_size=12, feature_size=6, embed_size=8, hidden_size=8))
    decoder.words.weight.requires_grad_(False)
    before = decoder.words.weight.clone()
    fit(decoder, teacher_forcing(decoder), batches(), LoopOptions(3))
    assert torch.equal(decoder.words.weight, before)
    assert math.isfinite(decoder.output.weight.sum().item())

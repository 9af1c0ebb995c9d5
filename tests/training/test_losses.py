"""Losses: a worker's share, and what they are made of."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from captionkit.model.decoders import DECODERS, AttentionDecoder, build_decoder
from captionkit.training.batches import pad_tokens
from captionkit.training.losses import BatchTotals, Objective, doubly_stochastic_loss
from captionkit.vocabulary import EOS, PAD
from tests.model.decoders import families

SMALL = {"vocab_size": 12, "feature_size": 5, "dropout": 0.0}
CAPTIONS = [[4, 5, 6], [7], [8, 9, 10, 11], [5, 5]]


def features_for(name: str) -> torch.Tensor:
    shape = (4, 5) if DECODERS[name].feature_kind == "pooled" else (4, 6, 5)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def made(name: str, **options: float) -> Objective:
    torch.manual_seed(0)
    return Objective(build_decoder(name, {**SMALL, **({"length": 8} if name == "one_shot" else {})}), **options).eval()


def totals_of(tokens: torch.Tensor, padded: bool) -> BatchTotals:
    return BatchTotals(len(tokens), tokens[:, 1:].numel() if padded else int((tokens[:, 1:] != PAD).sum()))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_shares_of_workers_add_up(name: str) -> None:
    objective = made(name, label_smoothing=0.1, attention_penalty=1.0)
    tokens, features = pad_tokens(CAPTIONS), features_for(name)
    totals = totals_of(tokens, DECODERS[name].predicts_padding)
    whole = objective(features, tokens, totals)
    parts = [objective(features[rank::2], tokens[rank::2], totals) for rank in range(2)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)


def test_the_loss_is_the_mean_over_words_and_end_markers() -> None:
    objective = made("show_tell")
    tokens, features = pad_tokens(CAPTIONS), features_for("show_tell")
    logits = objective.decoder(features, tokens[:, :-1])
    expected = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
    assert float(objective(features, tokens, totals_of(tokens, False))) == pytest.approx(float(expected), rel=1e-5)


def test_a_one_shot_decoder_learns_to_fall_silent() -> None:
    objective = made("one_shot")
    tokens, features = pad_tokens(CAPTIONS), features_for("one_shot")
    logits = objective.decoder(features, tokens[:, :-1])
    silent = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, EOS)
    expected = cross_entropy(logits.flatten(0, 1), silent.flatten())
    assert float(objective(features, tokens, totals_of(tokens, True))) == pytest.approx(float(expected), rel=1e-5)


def test_attention_that_overlooks_places_costs() -> None:
    tokens, features = pad_tokens(CAPTIONS), features_for("soft_attention")
    totals = totals_of(tokens, False)
    plain, strict = (made("soft_attention", attention_penalty=weight) for weight in (0.0, 1.0))
    _, attention = plain.decoder.attend(features, tokens[:, :-1])  # type: ignore[operator]
    seen = (attention * (tokens[:, 1:] != PAD).unsqueeze(2)).sum(1)
    extra = float(strict(features, tokens, totals) - plain(features, tokens, totals))
    assert extra == pytest.approx(float((1 - seen).square().mean()), rel=1e-4)


def test_the_self_critical_loss_makes_better_captions_likelier() -> None:
    objective = made("show_tell")
    tokens, features = pad_tokens(CAPTIONS), features_for("show_tell")

    def likelihoods() -> torch.Tensor:
        words = objective.decoder(features, tokens[:, :-1]).log_softmax(2).gather(2, tokens[:, 1:].unsqueeze(2))
        return words.squeeze(2).masked_fill(tokens[:, 1:] == PAD, 0.0).sum(1)

    before = likelihoods().detach()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.5)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    objective(features, tokens, totals_of(tokens, False), 0.0, advantages).backward()
    optimizer.step()
    change = likelihoods().detach() - before
    assert (change[[0, 2]] > 0).all()
    assert (change[[1, 3]] < 0).all()


def test_doubly_stochastic_loss_by_hand() -> None:
    attention = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.25, 0.75], [1.0, 0.0]]])
    is_real = torch.tensor([[True, True], [True, False]])
    # The first image's places get 1.5 and 0.5, the second's 0.25 and 0.75.
    assert doubly_stochastic_loss(attention, is_real).item() == pytest.approx((0.25 + 0.25 + 0.5625 + 0.0625) / 4)


@pytest.mark.parametrize(
    "kind", [kind for kind in families.SMALL if isinstance(families.small(kind), AttentionDecoder)]
)
def test_attention_can_be_trained(kind: str) -> None:
    decoder = families.small(kind).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)  # untrained, it attends to all places alike
    features, tokens = families.features_for(decoder, 4), families.captions(4)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        _, attention = decoder.attend(features, tokens[:, :-1])
        loss = doubly_stochastic_loss(attention, tokens[:, 1:] != 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

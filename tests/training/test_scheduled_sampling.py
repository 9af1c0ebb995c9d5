"""Scheduled sampling."""

import pytest
import torch

from captionkit.model.search import SearchOptions
from captionkit.model.search.search import search
from captionkit.training.scheduled_sampling import scheduled_tokens
from captionkit.vocabulary import BOS, EOS, PAD
from tests.model.decoders.families import SMALL, captions, features_for, small, without_dropout

every_family = pytest.mark.parametrize("kind", SMALL)


@every_family
def test_with_probability_0_the_tokens_stay(kind: str) -> None:
    decoder = without_dropout(small(kind))
    features, tokens = features_for(decoder, 4), captions(4)
    assert torch.equal(scheduled_tokens(decoder, features, tokens, 0.0), tokens)


@every_family
def test_it_trains_on_what_stepping_over_the_mixture_gives(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens = features_for(decoder, 6), captions(6)
    mixed = scheduled_tokens(decoder, features, tokens, 0.5, torch.Generator().manual_seed(1))
    assert not torch.equal(mixed, tokens)
    logits = decoder(features, mixed)
    state = decoder.start(features)
    stepped = []
    for t in range(tokens.shape[1]):
        step_logits, state = decoder.step(mixed[:, t], state)
        stepped.append(step_logits)
    torch.testing.assert_close(torch.stack(stepped, dim=1), logits, atol=1e-5, rtol=1e-5)
    by_stepping = torch.autograd.grad(torch.stack(stepped, dim=1).square().sum(), list(decoder.parameters()))
    ours = torch.autograd.grad(logits.square().sum(), list(decoder.parameters()))
    torch.testing.assert_close(ours, by_stepping, atol=1e-4, rtol=1e-4)


@every_family
def test_what_is_drawn_and_what_stays(kind: str) -> None:
    decoder = small(kind).train()
    features, tokens = features_for(decoder, 64), captions(64)
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    kept = tokens.clone()
    always = scheduled_tokens(decoder, features, tokens, 1.0, torch.Generator().manual_seed(1))
    seldom = scheduled_tokens(decoder, features, tokens, 0.25, torch.Generator().manual_seed(1))
    assert torch.equal(tokens, kept)
    for mixed, share in ((always, 1.0), (seldom, 0.25)):
        assert (mixed[:, 0] == BOS).all()
        assert torch.equal(mixed[tokens == PAD], tokens[tokens == PAD])
        is_word = (tokens != PAD) & (tokens != BOS)
        # An untrained decoder draws the true word one time in 17.
        assert (mixed != tokens)[is_word].float().mean().item() == pytest.approx(share * 16 / 17, abs=0.1)
    assert all(module.training for module in decoder.modules())
    assert all(torch.equal(value, before[key]) for key, value in decoder.state_dict().items())


@every_family
def test_a_sure_decoder_draws_what_greedy_search_finds(kind: str) -> None:
    decoder = small(kind)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    features = features_for(decoder, 5)
    tied = getattr(decoder.config, "tied", False)
    sure, bias = (decoder.words, decoder.bias) if tied else (decoder.output, decoder.output.bias)
    with torch.no_grad():
        sure.weight.mul_(1e4)  # one word has all the probability
        bias[:3] -= 1e8  # and no marker has any
    found = search(decoder.eval(), features, SearchOptions(beam=1, max_length=6), bos=BOS, eos=EOS, pad=PAD)
    tokens = torch.full((5, 7), 4)
    tokens[:, 0] = BOS
    drawn = scheduled_tokens(decoder, features, tokens, 1.0)
    assert torch.equal(drawn[:, 1:], found.tokens[:, 0])


def test_chance_comes_from_the_generator() -> None:
    decoder = small("top_down")
    features, tokens = features_for(decoder, 6), captions(6)
    first, again, other = (
        scheduled_tokens(decoder, features, tokens, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_modules_keep_their_modes() -> None:
    decoder = small("par_inject").train()
    decoder.norm.eval()
    scheduled_tokens(decoder, features_for(decoder, 2), captions(2), 0.5)
    assert decoder.training
    assert not decoder.norm.training


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_a_probability_is_between_0_and_1(probability: float) -> None:
    decoder = small("merge")
    with pytest.raises(ValueError, match="between 0 and 1"):
        scheduled_tokens(decoder, features_for(decoder, 2), captions(2), probability)

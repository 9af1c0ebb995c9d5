"""Par-inject's mask, positions and batch norm."""

import torch

from captionkit.model.decoders import ParInject
from captionkit.vocabulary import BOS, PAD
from tests.model.decoders.families import captions, features_for, small, without_dropout


def par_inject() -> ParInject:
    decoder = small("par_inject")
    assert isinstance(decoder, ParInject)
    return decoder


@torch.no_grad()
def test_the_mask_holds_each_word_once() -> None:
    decoder = par_inject().eval()
    state = decoder.start(features_for(decoder, 2))
    for words in ([BOS, BOS], [5, 6], [7, 6], [5, 5]):
        _, state = decoder.step(torch.tensor(words), state)
    assert state.carry["used"].nonzero().tolist() == [[0, 1], [0, 5], [0, 7], [1, 1], [1, 5], [1, 6]]
    rows = decoder.mask.weight
    expected = torch.stack([rows[[BOS, 5, 7]].sum(dim=0), rows[[BOS, 5, 6]].sum(dim=0)])
    torch.testing.assert_close(state.carry["mask"], expected)


@torch.no_grad()
def test_late_positions_look_like_the_last() -> None:
    decoder = par_inject().eval()
    features = features_for(decoder, 1)
    state = decoder.start(features)
    state.carry["position"] += 3
    far = type(state)({**state.carry, "position": state.carry["position"] + 90}, state.memory)
    word = torch.tensor([BOS])
    assert torch.equal(decoder.step(word, state)[0], decoder.step(word, far)[0])
    assert not torch.equal(decoder.step(word, state)[0], decoder.step(word, decoder.start(features))[0])


def test_padding_does_not_count_in_the_batch_norm() -> None:
    decoders = [without_dropout(par_inject()).train() for _ in range(2)]
    features, tokens = features_for(decoders[0], 4), captions(4)
    longer = torch.cat([tokens, torch.full((4, 6), PAD)], dim=1)
    short, long = (decoder(features, read) for decoder, read in zip(decoders, (tokens, longer), strict=True))
    torch.testing.assert_close(long[:, :8][tokens != PAD], short[tokens != PAD])
    assert long.isfinite().all()
    torch.testing.assert_close(decoders[0].norm.running_var, decoders[1].norm.running_var)


def test_a_step_uses_the_running_statistics_while_training_too() -> None:
    decoder = without_dropout(par_inject()).train()
    features = features_for(decoder, 3)
    words = torch.tensor([BOS, BOS, BOS])
    together, _ = decoder.step(words, decoder.start(features))
    alone, _ = decoder.step(words[:1], decoder.start(features[:1]))
    torch.testing.assert_close(alone[0], together[0])
    assert decoder.norm.num_batches_tracked == 0

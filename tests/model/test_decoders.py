"""The decoders' interface: toys of other families fit it, and configs that make no decoder are refused.

Our own families are tested in `tests/model/decoders/`.
"""

import json
from dataclasses import asdict

import pytest
import torch

from captionkit.model.decoders import DECODERS, Decoder, ShowTell, TopDown, build_decoder
from tests.model.toys import GridAttention, Merge, OneShot, UsedWords

BOS = 1


def decoders() -> list[Decoder]:
    return [
        ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, embed_size=5, hidden_size=7)),
        ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, embed_size=5, hidden_size=7, layers=3, dropout=0.3)),
        GridAttention(vocab_size=11, feature_size=6),
        Merge(vocab_size=11, feature_size=6),
        UsedWords(vocab_size=11, feature_size=6),
        OneShot(vocab_size=11, feature_size=6),
    ]


def features_for(decoder: Decoder, images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(images)
    shape = (images, 6) if decoder.feature_kind == "pooled" else (images, 9, 6)
    return torch.randn(shape, generator=generator)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("index", range(6))
@torch.no_grad()
def test_teacher_forcing_is_stepping(index: int) -> None:
    decoder = decoders()[index].eval()
    features = features_for(decoder, 3)
    tokens = torch.randint(4, 11, (3, 5))
    tokens[:, 0] = BOS
    logits = decoder(features, tokens)
    assert logits.shape == (3, 5, 11)
    state = decoder.start(features)
    for t in range(5):
        before = {key: tensor.clone() for key, tensor in state.carry.items()}
        step_logits, after = decoder.step(tokens[:, t], state)
        torch.testing.assert_close(step_logits, logits[:, t])
        for key, tensor in before.items():
            assert torch.equal(tensor, state.carry[key]), f"step changed the carry {key} it was given"
        assert after.memory.keys() == state.memory.keys()
        assert all(after.memory[key] is tensor for key, tensor in state.memory.items())
        assert all(len(tensor) == 3 for tensors in after for tensor in tensors.values())
        state = after


@pytest.mark.parametrize("index", range(6))
@torch.no_grad()
def test_rows_are_independent_and_reorderable(index: int) -> None:
    """What search does: index_select on the state's rows, then step on."""
    decoder = decoders()[index].eval()
    features = features_for(decoder, 3)
    tokens = torch.tensor([[BOS, 5, 6], [BOS, 7, 8], [BOS, 9, 10]])
    rows = torch.tensor([2, 0, 0, 1])
    state = decoder.start(features)
    for t in range(2):
        _, state = decoder.step(tokens[:, t], state)
    reordered = type(state)(*({k: v.index_select(0, rows) for k, v in tensors.items()} for tensors in state))
    logits, _ = decoder.step(tokens[rows, 2], reordered)
    torch.testing.assert_close(logits, decoder(features, tokens)[rows, 2])


def test_show_tell_learns_and_reads_the_image() -> None:
    decoder = ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, embed_size=16, hidden_size=16, dropout=0.0))
    features = features_for(decoder, 2)
    tokens = torch.tensor([[BOS, 4, 5, 6], [BOS, 7, 8, 9]])
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(60):
        logits = decoder(features, tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(decoder(features, tokens[:, :-1]).argmax(dim=2), tokens[:, 1:])
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("layers", [1, 2])
def test_show_tell_drops_only_while_training(layers: int) -> None:
    decoder = ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, embed_size=32, hidden_size=32, layers=layers))
    features, tokens = features_for(decoder, 2), torch.tensor([[BOS, 4], [BOS, 5]])
    assert not torch.equal(decoder(features, tokens), decoder(features, tokens))
    first, second = decoder.start(features), decoder.start(features)
    assert not torch.equal(first.carry["hidden"], second.carry["hidden"])
    decoder.eval()
    assert torch.equal(decoder(features, tokens), decoder(features, tokens))


def test_show_tell_runs_in_bfloat16() -> None:
    decoder = (
        ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, embed_size=5, hidden_size=7)).eval().to(torch.bfloat16)
    )
    state = decoder.start(features_for(decoder, 2).to(torch.bfloat16))
    logits, _ = decoder.step(torch.tensor([BOS, BOS]), state)
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize("family", DECODERS)
def test_logits_stay_float32_in_bfloat16(family: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(family, {"vocab_size": 11, "feature_size": 6}).eval()
    features, tokens_N = features_for(decoder, 2), torch.tensor([BOS, BOS])
    exact, _ = decoder.step(tokens_N, decoder.start(features))
    weights = {key: value.clone() for key, value in decoder.state_dict().items()}
    decoder.to_dtype(torch.bfloat16)
    logits, _ = decoder.step(tokens_N, decoder.start(features.to(torch.bfloat16)))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, atol=0.02, rtol=0.02)
    assert not torch.equal(logits, logits.to(torch.bfloat16).float())
    state = decoder.to_dtype(torch.float32).state_dict()
    assert all(torch.equal(state[key], weights[key]) for key in weights if key.startswith("output."))
    assert any(not torch.equal(state[key], weights[key]) for key in weights)


def test_tied_logits_stay_float32_in_bfloat16() -> None:
    decoder = TopDown(TopDown.Config(vocab_size=11, feature_size=6, tied=True)).eval().to_dtype(torch.bfloat16)
    logits, _ = decoder.step(torch.tensor([BOS, BOS]), decoder.start(features_for(decoder, 2).to(torch.bfloat16)))
    assert logits.dtype == torch.float32
    assert decoder.words.weight.dtype == torch.bfloat16


def test_built_from_its_config() -> None:
    decoder = ShowTell(ShowTell.Config(vocab_size=11, feature_size=6, hidden_size=7, layers=2))
    config = json.loads(json.dumps(asdict(decoder.config)))
    again = build_decoder(decoder.name, config)
    assert type(again) is ShowTell
    assert again.config == decoder.config
    again.load_state_dict(decoder.state_dict())
    assert all(name == family.name for name, family in DECODERS.items())


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("show_tel", {}, "no decoder is called 'show_tel'; there are: show_tell, merge, "),
        ("show_tell", {"vocab_size": 5}, "missing 1 required keyword-only argument"),
        (
            "show_tell",
            {"vocab_size": 5, "feature_size": 4, "heads": 2},
            "unexpected keyword argument 'heads'",
        ),
        (
            "show_tell",
            {"vocab_size": 0, "feature_size": 4},
            "vocab_size must be a whole number of at least 1",
        ),
        ("show_tell", {"vocab_size": 5, "feature_size": "4"}, "feature_size must be a whole number"),
        ("show_tell", {"vocab_size": 5, "feature_size": 4, "layers": 0}, "layers must be a whole number"),
        ("show_tell", {"vocab_size": 5, "feature_size": 4, "dropout": 1.0}, "dropout must be at least 0"),
        ("one_shot", {"vocab_size": 5, "feature_size": 4, "dropout": -0.1}, "dropout must be at least 0"),
        ("one_shot", {"vocab_size": 5, "feature_size": 4, "length": 0}, "length must be a whole number of at least 1"),
        ("par_inject", {"vocab_size": 5, "feature_size": 4, "positions": 2.5}, "positions must be a whole number"),
        ("top_down", {"vocab_size": 5, "feature_size": 4, "attention_size": 0}, "attention_size must be a whole"),
        ("top_down", {"vocab_size": 5, "feature_size": 4, "place_size": 0}, "place_size must be a whole number"),
        ("show_tell", {"vocab_size": 5, "feature_size": 4, "maxout": True, "layers": 2}, "maxout has one layer, not 2"),
    ],
)
def test_a_config_that_makes_no_decoder(name: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_decoder(name, config)

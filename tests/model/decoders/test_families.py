"""What every family must do: step as it was trained, be searched, learn, and travel in a bundle."""

import functools
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from captionkit.images import Preprocessing
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import DECODERS, build_decoder
from captionkit.model.decoders.base import PADDING
from captionkit.model.encoders import Encoder, Output, build_encoder
from captionkit.model.search import SearchOptions
from captionkit.model.search.search import search
from captionkit.model.tuning import MAX_DEVIATIONS
from captionkit.vocabulary import BOS, EOS, PAD, Vocabulary
from tests.model.conftest import WORDS as VOCABULARY
from tests.model.conftest import encoded
from tests.model.decoders.families import SMALL, WORDS, build, captions, features_for, loss_of, small, without_dropout

every_family = pytest.mark.parametrize("kind", SMALL)
with_words = pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "one_shot"])


def test_no_family_is_left_out() -> None:
    assert {small(kind).name for kind in SMALL} == set(DECODERS)
    assert all(name == family.name for name, family in DECODERS.items())
    assert PADDING == PAD


@every_family
@torch.no_grad()
def test_teacher_forcing_is_stepping(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens = features_for(decoder, 5), captions(5)
    logits = decoder(features, tokens)
    assert logits.shape == (5, 8, WORDS)
    state = decoder.start(features)
    for t in range(8):
        before = {key: tensor.clone() for key, tensor in state.carry.items()}
        step_logits, after = decoder.step(tokens[:, t], state)
        torch.testing.assert_close(step_logits, logits[:, t], atol=1e-5, rtol=1e-5)
        for key, tensor in before.items():
            assert torch.equal(tensor, state.carry[key]), f"step changed the carry {key} it was given"
        assert after.carry.keys() == state.carry.keys()
        assert after.memory.keys() == state.memory.keys()
        assert all(after.memory[key] is tensor for key, tensor in state.memory.items())
        assert all(len(tensor) == 5 for tensors in after for tensor in tensors.values())
        state = after


@every_family
@torch.no_grad()
def test_rows_know_nothing_of_each_other(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens = features_for(decoder, 4), captions(4)
    together = decoder(features, tokens)
    assert not torch.allclose(together[0, 0], together[1, 0], atol=1e-4), "the image makes no difference"
    for row in range(4):
        alone = decoder(features[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    poisoned = features.clone()
    poisoned[1] = torch.nan
    rest = [0, 2, 3]
    torch.testing.assert_close(decoder(poisoned, tokens)[rest], together[rest], atol=1e-5, rtol=1e-5)


@every_family
@torch.no_grad()
def test_an_encoders_magnitude_makes_no_difference(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens = features_for(decoder, 50), captions(50)
    decoder.set_feature_statistics(features)
    seen = decoder.standardize(features).flatten(0, -2)
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(seen.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(dim=0), torch.ones(seen.shape[1]), atol=0.05, rtol=0)
    logits = decoder(features, tokens)
    decoder.set_feature_statistics(100 * features + 7)
    torch.testing.assert_close(decoder(100 * features + 7, tokens), logits, atol=1e-3, rtol=1e-3)
    assert decoder.standardize(1e6 * features.abs()).max() == MAX_DEVIATIONS


@every_family
@torch.no_grad()
def test_rows_can_be_reordered_between_steps(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens, rows = features_for(decoder, 3), captions(3), torch.tensor([2, 0, 0, 1])
    state = decoder.start(features)
    for t in range(2):
        _, state = decoder.step(tokens[:, t], state)
    moved = type(state)(*({k: v.index_select(0, rows) for k, v in tensors.items()} for tensors in state))
    logits, _ = decoder.step(tokens[rows, 2], moved)
    torch.testing.assert_close(logits, decoder(features, tokens)[rows, 2], atol=1e-5, rtol=1e-5)


@every_family
def test_gradients_reach_every_parameter(kind: str) -> None:
    decoder = without_dropout(small(kind))
    features = features_for(decoder, 12).requires_grad_()
    loss_of(decoder, features, captions(12)).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert features.grad is not None
    assert (features.grad.flatten(1).abs().sum(dim=1) > 0).all(), "an encoder could not be trained along"


@every_family
def test_chance_is_for_training_only(kind: str) -> None:
    decoder = small(kind)
    features, tokens = features_for(decoder, 4), captions(4)
    assert not torch.equal(decoder(features, tokens), decoder(features, tokens))
    decoder.eval()
    assert torch.equal(decoder(features, tokens), decoder(features, tokens))


@every_family
@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(beam=1),
        SearchOptions(beam=4, n_best=4),
        SearchOptions(beam=4, n_best=4, groups=2, max_length=5),
        SearchOptions(method="sample", n_best=3, top_k=5),
    ],
    ids=["greedy", "beam", "diverse", "sample"],
)
def test_search_runs_and_does_not_depend_on_the_batch(kind: str, options: SearchOptions) -> None:
    decoder = small(kind).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)  # untrained, all words are nearly equally likely, and rounding decides
    features = features_for(decoder, 4)
    found = search(decoder, features, options, bos=BOS, eos=EOS, pad=PAD)
    assert found.tokens.shape[:2] == (4, options.n_best)
    assert (found.lengths[:, 0] > 0).all()
    assert found.lengths.max() <= min(options.max_length, decoder.max_steps or options.max_length)
    for image in range(4):
        alone = search(decoder, features[image : image + 1], options, bos=BOS, eos=EOS, pad=PAD)
        assert torch.equal(alone.tokens[0], found.tokens[image])
        torch.testing.assert_close(alone.scores[0], found.scores[image], atol=1e-4, rtol=1e-4)


@every_family
def test_ten_images_are_learnt_to_the_word(kind: str) -> None:
    decoder = without_dropout(small(kind))
    features, tokens = features_for(decoder, 10), captions(10, seed=3)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.015)
    decoder.train()
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(decoder, features, tokens).backward()
        optimizer.step()
    decoder.eval()
    for beam in (1, 3):
        found = search(decoder, features, SearchOptions(beam=beam), bos=BOS, eos=EOS, pad=PAD)
        expected = tokens[:, 1:].masked_fill(tokens[:, 1:] == EOS, PAD)
        assert torch.equal(found.tokens[:, 0, :7], expected[:, : found.tokens[:, 0, :7].shape[1]])
        assert found.ended.all()


@every_family
def test_built_from_its_config(kind: str) -> None:
    decoder = small(kind).eval()
    again = build_decoder(decoder.name, json.loads(json.dumps(asdict(decoder.config)))).eval()
    assert type(again) is type(decoder)
    assert again.config == decoder.config
    again.load_state_dict(decoder.state_dict())
    features, tokens = features_for(decoder, 2), captions(2)
    assert torch.equal(again(features, tokens), decoder(features, tokens))


@every_family
@torch.no_grad()
def test_runs_in_bfloat16(kind: str) -> None:
    decoder = small(kind).eval()
    features, tokens = features_for(decoder, 3), captions(3)
    exact = decoder(features, tokens)
    half = decoder.to(torch.bfloat16)
    rough = half(features.to(torch.bfloat16), tokens)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.05)
    logits, _ = half.step(tokens[:, 0], half.start(features.to(torch.bfloat16)))
    assert logits.dtype == torch.bfloat16


@with_words
@pytest.mark.parametrize("frozen", [True, False])
def test_given_word_vectors(kind: str, frozen: bool) -> None:
    decoder = small(kind)
    vectors = torch.randn(WORDS, decoder.config.embed_size, dtype=torch.float64)
    decoder.set_embeddings(vectors, frozen=frozen)
    optimizer = torch.optim.SGD([p for p in decoder.parameters() if p.requires_grad], lr=1.0)
    loss_of(decoder, features_for(decoder, 4), captions(4)).backward()
    optimizer.step()
    words = decoder.state_dict()["words.weight"]
    assert words.dtype == torch.float32
    assert torch.equal(words, vectors.float()) == frozen
    again = build_decoder(decoder.name, asdict(decoder.config))
    assert [n for n, p in again.named_parameters() if not p.requires_grad] == ["words.weight"] * frozen
    with pytest.raises(ValueError, match=rf"word vectors are \({WORDS}, \d+\) \(words, embed_size\), not \(2, 3\)"):
        decoder.set_embeddings(torch.zeros(2, 3), frozen=frozen)


def test_who_reads_no_words_takes_no_vectors() -> None:
    with pytest.raises(ValueError, match="one_shot reads no words"):
        small("one_shot").set_embeddings(torch.zeros(WORDS, 3), frozen=True)


@functools.cache
def encoder(output: Output) -> Encoder:
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=64, resize=64)
    return build_encoder("squeezenet1_1", output, weights="none", preprocessing=preprocessing)


@every_family
def test_travels_in_a_bundle(kind: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([VOCABULARY], min_count=1)
    network = encoder(DECODERS[kind.split()[0]].feature_kind)
    torch.manual_seed(0)
    decoder = build(kind, len(vocabulary), network.feature_size)
    if kind != "one_shot":
        decoder.set_embeddings(torch.randn(len(vocabulary), decoder.config.embed_size), frozen=True)
    captioner = Captioner(network, decoder, vocabulary)
    images = [encoded(seed) for seed in range(3)]
    before = captioner.caption(images, beam=2, n_best=2)
    name = captioner.save(tmp_path)
    loaded = Captioner.load(tmp_path, dtype="float32")
    assert loaded.caption(images, beam=2, n_best=2) == before
    assert all(caption.text for caption in before)
    assert loaded.fingerprint == loaded.save(tmp_path / "again") == name
    frozen = [name for name, parameter in loaded.decoder.named_parameters() if not parameter.requires_grad]
    assert frozen == ["words.weight"] * (kind != "one_shot")

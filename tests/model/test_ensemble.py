"""Ensembles: the mean of the members' probabilities, whatever the families and encoders."""

from __future__ import annotations

import copy
import io
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from captionkit import BundleError, Captioner, Vocabulary
from captionkit.images import Decoded, Preprocessing, Sandbox, prepare
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import DECODERS, AttentionDecoder, Decoder, build_decoder
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.model.search.options import SearchOptions
from captionkit.scenes import draw, random_scene
from captionkit.vocabulary import PAD

WORDS = Vocabulary.build(["a red ball and a green tree on the grass with two small dogs in water"], min_count=1)
GEOMETRY = Preprocessing(64, 64, "bilinear", "squash")


def encoder(output: str = "pooled", seed: int = 0, geometry: Preprocessing = GEOMETRY) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder("tiny_resnet", output, "none", geometry)  # type: ignore[arg-type]


def member(family: str, seed: int, eyes: Encoder | None = None, words: Vocabulary = WORDS) -> Captioner:
    eyes = eyes or encoder(DECODERS[family].feature_kind, seed)
    torch.manual_seed(seed)
    sizes = {"embed_size": 12, "hidden_size": 16, "attention_size": 8, "position_size": 12}
    known = {field.name for field in fields(DECODERS[family].Config)}
    config = {name: size for name, size in sizes.items() if name in known}
    config |= {"vocab_size": len(words), "feature_size": eyes.feature_size}
    decoder = build_decoder(family, config)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return Captioner(eyes, decoder, words)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def probabilities(captioner: Captioner, pixels: NDArray[np.uint8], tokens: list[int]) -> torch.Tensor:
    """(N, V), of what follows some tokens."""
    with torch.inference_mode():
        state = captioner.decoder.start(captioner.encode(pixels))
        for token in tokens:
            logits, state = captioner.decoder.step(torch.full((len(pixels),), token), state)
    return torch.softmax(logits, dim=-1)


@pytest.mark.parametrize("families", [("show_tell", "merge"), ("top_down", "par_inject", "one_shot")])
def test_the_next_word_has_the_mean_of_the_members_probabilities(
    families: tuple[str, ...], pixels: NDArray[np.uint8]
) -> None:
    members = [member(family, seed) for seed, family in enumerate(families)]
    both = Captioner.ensemble(members)
    for tokens in ([1], [1, 5, 7]):
        each = [probabilities(one, pixels, tokens) for one in members]
        assert (each[0] - each[1]).abs().max() > 0.01
        torch.testing.assert_close(probabilities(both, pixels, tokens), torch.stack(each).mean(dim=0))


@pytest.mark.parametrize("family", ["show_tell", "soft_attention"])
def test_a_captioner_with_itself_says_what_it_says_alone(family: str, pixels: NDArray[np.uint8]) -> None:
    one = member(family, 0)
    twice = Captioner.ensemble([one, copy.deepcopy(one)])
    for options in (SearchOptions(beam=1), SearchOptions(beam=4, n_best=4, max_length=9)):
        alone, together = (captioner.caption_pixels(pixels, options) for captioner in (one, twice))
        assert [[found.text for found in row] for row in together] == [[found.text for found in row] for row in alone]
        scores = [[found.score for found in row] for rows in (alone, together) for row in rows]
        np.testing.assert_allclose(scores[: len(alone)], scores[len(alone) :], atol=1e-5)


def test_teacher_forcing_and_stepping_agree(pixels: NDArray[np.uint8]) -> None:
    both = Captioner.ensemble([member("soft_attention", 0), member("merge", 1)])
    tokens = torch.tensor([[1, 5, 7]] * 3)
    with torch.inference_mode():
        forced = both.decoder(both.encode(pixels), tokens)[:, -1]
    torch.testing.assert_close(torch.softmax(forced, dim=-1), probabilities(both, pixels, [1, 5, 7]))


def test_an_encoder_in_common_is_computed_once(pixels: NDArray[np.uint8]) -> None:
    eyes = encoder()
    members = [member("show_tell", 1, eyes), member("merge", 2, copy.deepcopy(eyes)), member("merge", 3)]
    both = Captioner.ensemble(members)
    assert both.encode(pixels).shape == (3, 2 * eyes.feature_size)
    expected = torch.stack([probabilities(one, pixels, [1]) for one in members]).mean(dim=0)
    torch.testing.assert_close(probabilities(both, pixels, [1]), expected)


def test_bundles_are_loaded_together_in_any_order(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    members = [member("show_tell", 1), member("merge", 2)]
    addresses = [tmp_path / "a", tmp_path / "b"]
    for one, address in zip(members, addresses, strict=True):
        one.save(address)
    orders = (addresses, [str(address) for address in addresses[::-1]])
    forth, back = (Captioner.load(order, device="cpu", dtype="float32") for order in orders)
    assert forth.fingerprint == back.fingerprint != Captioner.load(addresses[0]).fingerprint
    options = SearchOptions(beam=3)
    assert forth.caption_pixels(pixels, options) == back.caption_pixels(pixels, options)
    assert forth.provenance["ensemble"] == sorted(one.fingerprint for one in members)
    with pytest.raises(BundleError, match="save its members"):
        forth.save(tmp_path / "c")


def test_members_that_do_not_fit_are_told_apart() -> None:
    first = member("show_tell", 1)
    other = Vocabulary((*WORDS.words[:-1], "zebra"))
    with pytest.raises(BundleError, match=r"19 words and number 2 19; word 18 is '\w+' and '\w+'"):
        Captioner.ensemble([first, member("merge", 2, words=other)])
    with pytest.raises(BundleError, match="at least one"):
        Captioner.ensemble([])
    assert Captioner.ensemble([first]) is first


def test_other_normalisation_is_each_members_own(pixels: NDArray[np.uint8]) -> None:
    other = encoder(geometry=Preprocessing(64, 64, "bilinear", "squash", (0.5,) * 3, (0.5,) * 3))
    members = [member("merge", 1), member("merge", 2, other)]
    expected = torch.stack([probabilities(one, pixels, [1]) for one in members]).mean(dim=0)
    torch.testing.assert_close(probabilities(Captioner.ensemble(members), pixels, [1]), expected)


def test_the_fewest_steps_of_a_member_are_all_steps() -> None:
    both = Captioner.ensemble([member("one_shot", 1), member("merge", 2)])
    assert isinstance(both.decoder, Decoder)
    assert both.decoder.max_steps == 40


def photographs(count: int = 3) -> list[bytes]:
    """JPEGs of scenes, not square, and large enough to be decoded at a reduced scale."""
    found = []
    for seed in range(count):
        file = io.BytesIO()
        draw(random_scene(seed), 640).resize((640, 480)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


CROP = Preprocessing(48, 80, "bicubic", "crop", (0.4,) * 3)
GEOMETRIES = (GEOMETRY, CROP, Preprocessing(64, 99, "bilinear", "squash", (0.3,) * 3), Preprocessing(80, 80, "nearest"))


def test_each_member_sees_images_as_it_was_trained_to() -> None:
    """Whichever way pixels come: decoded in this process or in a sandbox, or from an open image."""
    families = ("show_tell", "merge", "par_inject", "merge")
    eyes = [encoder(seed=seed, geometry=geometry) for seed, geometry in enumerate(GEOMETRIES)]
    members = [member(family, seed, own) for seed, (family, own) in enumerate(zip(families, eyes, strict=True))]
    both, images = Captioner.ensemble(members), photographs()
    assert [one.size for one in both.preprocessing.each].count(64) == 1, "two members see the same square"
    with Sandbox(both.preprocessing, threads=1) as sandbox:
        decoded = [one for one in sandbox.decode_many(images) if isinstance(one, Decoded)]
    assert [(one.width, one.height) for one in decoded] == [(640, 480)] * 3
    pixels = np.stack([one.pixels for one in decoded])
    each = []
    for one in members:
        with Sandbox(one.preprocessing, threads=1) as sandbox:
            own = np.stack([found.pixels for found in sandbox.decode_many(images) if isinstance(found, Decoded)])
        each.append(probabilities(one, own, [1, 5]))
    torch.testing.assert_close(probabilities(both, pixels, [1, 5]), torch.stack(each).mean(dim=0))
    picture = draw(random_scene(1), 300)
    own = [probabilities(one, prepare(picture, one.preprocessing)[None], [1]) for one in members]
    found = probabilities(both, prepare(picture, both.preprocessing)[None], [1])
    torch.testing.assert_close(found, torch.stack(own).mean(dim=0))
    captions = both.caption([*images, b"no image"], beam=2)
    assert [caption.error_kind for caption in captions] == [None, None, None, "not_an_image"]


def test_attention_is_the_mean_of_members_that_look_at_the_same_places() -> None:
    """Those with another square, or a coarser grid, have a say in the words, and none in the picture."""
    geometries = (GEOMETRY, CROP, GEOMETRY, Preprocessing(96, 96, "bilinear", "squash"))
    families = ("soft_attention", "top_down", "top_down", "soft_attention")
    eyes = [encoder("grid", seed, geometry) for seed, geometry in enumerate(geometries)]
    members = [member(family, seed, own) for seed, (family, own) in enumerate(zip(families, eyes, strict=True))]
    both = Captioner.ensemble([*members, member("merge", 9)])
    assert both.attends
    first = min(members, key=lambda one: one.fingerprint)
    alike = [one for one in members if one.preprocessing.size == first.preprocessing.size]
    picture = draw(random_scene(1), 200)
    pixels = prepare(picture, both.preprocessing)
    expected = []
    for one in alike:
        assert isinstance(one.decoder, AttentionDecoder)
        features = one.encode(prepare(picture, one.preprocessing)[None])
        expected.append(one.attention(features, "a red ball"))
    found = both.attention(both.encode(pixels[None]), "a red ball")
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)
    assert np.array_equal(both.seen(pixels), prepare(picture, first.preprocessing))
    [shown] = both.show([picture], beams=(2,)).images
    assert shown.pixels is not None
    assert np.array_equal(shown.pixels, both.seen(pixels))
    assert shown.captions[0].maps is not None
    assert not Captioner.ensemble([member("merge", 1), member("merge", 2)]).attends
    assert np.array_equal(first.seen(pixels), pixels)


def test_a_consensus_is_the_mean_of_the_members() -> None:
    texts = ["a red ball", "two small dogs in water", "a green tree on the grass", "a tree and a ball"]
    ids = [[WORDS.encode(text)] for text in texts]
    members = [member("merge", 1), member("show_tell", 2), member("merge", 3)]
    pixels = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    for one in members[:2]:
        one.consensus = Consensus.of(one.encode(pixels), ids, PAD)
    both, candidates = Captioner.ensemble(members), [[ids[0][0], ids[1][0]], [ids[2][0]]]
    assert both.consensus is not None
    each = [one.consensus.expected_cider(one.encode(pixels[:2]), candidates, 3) for one in members[:2] if one.consensus]
    assert each[0] != each[1]
    found = both.consensus.expected_cider(both.encode(pixels[:2]), candidates, 3)
    assert [len(row) for row in found] == [2, 1]
    np.testing.assert_allclose(found[0], np.mean([each[0][0], each[1][0]], axis=0))
    assert both.caption_pixels(pixels, SearchOptions(beam=3, consensus=3))
    assert Captioner.ensemble([members[2], member("merge", 4)]).consensus is None

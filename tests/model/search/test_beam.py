"""Beam search against searches that are obviously right, and against its own promises."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.model.decoders import Decoder, ShowTell
from captionkit.model.search import SearchOptions
from tests.model.search.slow_search import EOS, PAD, Found, Task, Tree, Words, every_caption, read, slow_beam
from tests.model.toys import GridAttention, Merge, OneShot, UsedWords

IMAGES = torch.tensor([[3.0], [14.0], [159.0], [26.0], [535.0]])


@st.composite
def tasks(draw: st.DrawFn, exhaustive: bool) -> Task:
    """Searches of all kinds over small vocabularies; `exhaustive` ones keep every prefix there is."""
    words = draw(st.integers(2, 3 if exhaustive else 12))
    vocab_size = 4 + words
    decoder = Tree(
        vocab_size, levels=draw(st.sampled_from([3, 40, 10_000])), ends=draw(st.sampled_from([-2.0, 0.0, 3.0]))
    )
    max_length = draw(st.integers(1, 4 if exhaustive else 8))
    prefix = draw(st.lists(st.integers(4, vocab_size - 1), max_size=min(2, max_length - 1)))
    banned = draw(st.lists(st.integers(4, vocab_size - 1), max_size=words - 1, unique=True))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    width = (words + 1) ** max_length if exhaustive else draw(st.integers(1, 5))
    n_best = draw(st.integers(1, min(width * groups, 6)))
    options = SearchOptions(
        beam=width * groups,
        groups=groups,
        n_best=n_best,
        diversity=draw(st.sampled_from([0.0, 0.7, 5.0])),
        length_penalty=draw(st.sampled_from(["none", "average", "gnmt", "reward"])),
        alpha=draw(st.sampled_from([0.0, 0.7, 1.0, 3.0])),
        min_length=draw(st.integers(0, max_length)),
        max_length=max_length,
        no_repeat_ngram=draw(st.integers(0, 3)),
        stop="exact" if exhaustive else draw(st.sampled_from(["exact", "full"])),
    )
    features = IMAGES[: draw(st.integers(1, 5))]
    return Task(decoder, features, options, banned=(3, *banned), prefix=tuple(prefix))


@settings(max_examples=80, deadline=None)
@given(tasks(exhaustive=True))
def test_a_beam_that_keeps_everything_finds_the_best(task: Task) -> None:
    result = task.run()
    for image in range(len(task.features)):
        everything = every_caption(task, image)
        found = read(result, image)
        assert [(f.ended, f.score) for f in found] == [(e.ended, e.score) for e in everything[: task.options.n_best]]
        known = {caption.words: caption.score for caption in everything}
        assert all(known[caption.words] == caption.score for caption in found)
        assert len({caption.words for caption in found}) == len(found)


@settings(max_examples=120, deadline=None)
@given(tasks(exhaustive=False))
def test_every_beam_is_the_slow_one(task: Task) -> None:
    result = task.run()
    for image in range(len(task.features)):
        found, slow = read(result, image), slow_beam(task, image)
        assert [(f.words, f.score, f.ended) for f in found] == [(s.words, s.score, s.ended) for s in slow]
        assert [f.mean for f in found] == pytest.approx([s.mean for s in slow], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(tasks(exhaustive=False))
def test_promises(task: Task) -> None:
    options = task.options
    result = task.run()
    for image in range(len(task.features)):
        found = read(result, image)
        assert 1 <= len(found) <= options.n_best
        assert len({caption.words for caption in found}) == len(found)
        assert found == sorted(found, key=lambda caption: (not caption.ended, -caption.score))
        for caption in found:
            assert caption.words[: len(task.prefix)] == task.prefix
            assert not set(caption.words[len(task.prefix) :]) & set(task.banned)
            assert len(caption.words) <= options.max_length
            assert caption.ended == (len(caption.words) < options.max_length)
            if len(caption.words) < options.min_length:  # no other token was left
                assert [word for word, _ in task.allowed(image, caption.words)] == [EOS]
            no_ngram_twice(caption.words, options.no_repeat_ngram, len(task.prefix))


def no_ngram_twice(words: Words, n: int, forced: int) -> None:
    grams = [words[i : i + n] for i in range(len(words) - n + 1)] if n else []
    for place, gram in enumerate(grams):
        assert place + n <= forced or gram not in grams[:place]


@settings(max_examples=40, deadline=None)
@given(tasks(exhaustive=False), st.permutations(range(5)))
def test_the_batch_changes_nothing(task: Task, order: list[int]) -> None:
    alone = [read(task.run(features=IMAGES[i : i + 1]), 0) for i in range(5)]
    together = task.run(features=IMAGES[order])
    assert [read(together, place) for place in range(5)] == [alone[i] for i in order]


@settings(max_examples=40, deadline=None)
@given(tasks(exhaustive=False), st.sampled_from([-1.0, 0.0, 1.0]))
def test_when_images_are_taken_out_changes_nothing(task: Task, share: float) -> None:
    """-1: never, nor is the end noticed before the limit, as on a GPU; 0: only all at once; 1: one by one."""
    task.features = IMAGES
    expected = task.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionkit.model.search.beam.WORTH_COMPACTING", share)
        result = task.run()
    assert all(torch.equal(left, right) for left, right in zip(result, expected, strict=True))


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(beam=1, max_length=6),
        SearchOptions(beam=4, n_best=4, max_length=6, no_repeat_ngram=2),
        SearchOptions(beam=4, n_best=3, groups=2, max_length=4, length_penalty="gnmt"),
    ],
)
def test_every_family_of_decoders(index: int, options: SearchOptions) -> None:
    """Search knows none of them: a fused LSTM, attention over a grid, merging, a mask of words used, one shot."""
    torch.manual_seed(index)
    families: list[Decoder] = [
        ShowTell(ShowTell.Config(vocab_size=9, feature_size=6, embed_size=5, hidden_size=7, layers=2)),
        GridAttention(9, 6),
        Merge(9, 6),
        UsedWords(9, 6),
        OneShot(9, 6, length=5),
    ]
    decoder = families[index].eval()
    with torch.no_grad():
        for parameter in decoder.parameters():  # sharper than fresh weights, so that rounding decides nothing
            parameter.mul_(6)
        features = torch.randn((3, 6) if decoder.feature_kind == "pooled" else (3, 4, 6))
        task = Task(decoder, features, options, banned=(3,))
        result = task.run()
        for image in range(3):
            found, slow = read(result, image), slow_beam(task, image)
            assert [(f.words, f.ended) for f in found] == [(s.words, s.ended) for s in slow]
            assert [f.score for f in found] == pytest.approx([s.score for s in slow], rel=1e-4)


def test_greedy_is_argmax() -> None:
    task = Task(Tree(30, ends=1.0), IMAGES, SearchOptions(beam=1, max_length=9, min_length=0))
    result = task.run()
    for image in range(5):
        words: Words = ()
        while len(words) < 9 and (word := task.allowed(image, words)[0][0]) != EOS:
            words = (*words, word)
        assert read(result, image)[0].words == words


def test_the_first_of_equals_wins() -> None:
    """All logits equal: the lowest ids, in the order of their parents."""
    task = Task(Tree(300, levels=1, ends=-50.0), IMAGES, SearchOptions(beam=3, n_best=3, max_length=2))
    found = read(task.run(), 0)
    assert [caption.words for caption in found] == [(3, 3), (3, 4), (3, 5)]


def test_a_vocabulary_smaller_than_the_beam() -> None:
    task = Task(Tree(5), IMAGES, SearchOptions(beam=20, n_best=20, max_length=2, min_length=0))
    assert [caption.words for caption in read(task.run(), 0) if caption.ended] != []
    assert {caption.words for caption in read(task.run(), 0)} == {
        (),
        (3,),
        (4,),
        *((a, b) for a in (3, 4) for b in (3, 4)),
    }


def test_groups_differ() -> None:
    options = SearchOptions(beam=4, groups=4, n_best=4, diversity=100.0, max_length=5, length_penalty="none")
    for captions in read_all(Task(Tree(40), IMAGES, options)):
        assert len({caption.words[0] for caption in captions}) == 4
    careless = dataclasses.replace(options, diversity=0.0)
    assert [len(captions) for captions in read_all(Task(Tree(40), IMAGES, careless))] == [1] * 5


def test_a_group_that_is_done_costs_the_others_nothing() -> None:
    """Three groups of one, which end at different times over three words that are likely for all of them."""
    options = SearchOptions(beam=3, groups=3, n_best=3, diversity=2.0, max_length=8)
    task = Task(Tree(6, levels=20, ends=1.0), torch.arange(60.0).unsqueeze(1), options)
    for image, captions in enumerate(read_all(task)):
        assert [caption.words for caption in captions] == [caption.words for caption in slow_beam(task, image)]


def read_all(task: Task) -> list[list[Found]]:
    result = task.run()
    return [read(result, image) for image in range(len(task.features))]


def test_bfloat16_is_scored_in_fp32() -> None:
    torch.manual_seed(1)
    decoder = (
        ShowTell(ShowTell.Config(vocab_size=40, feature_size=6, embed_size=8, hidden_size=8)).eval().to(torch.bfloat16)
    )
    result = Task(decoder, torch.randn(4, 6).to(torch.bfloat16), SearchOptions(n_best=2)).run()
    assert result.scores.dtype == result.logprobs.dtype == torch.float32
    assert not torch.equal(result.scores, result.scores.to(torch.bfloat16).float())


def test_an_image_that_gives_no_numbers_spoils_no_other() -> None:
    torch.manual_seed(1)
    decoder = ShowTell(ShowTell.Config(vocab_size=40, feature_size=6, embed_size=8, hidden_size=8)).eval()
    features = torch.randn(3, 6)
    for method in ("beam", "sample"):
        options = SearchOptions(method=method, n_best=2, max_length=6)  # type: ignore[arg-type]
        good = Task(decoder, features, options).run()
        spoilt = features.clone()
        spoilt[1] = torch.nan
        result = Task(decoder, spoilt, options).run()
        assert read(result, 1) == []
        for image in (0, 2):
            assert [c.words for c in read(result, image)] == [c.words for c in read(good, image)]


def test_no_images() -> None:
    for method in ("beam", "sample"):
        options = SearchOptions(method=method, n_best=2)  # type: ignore[arg-type]
        result = Task(Tree(9), IMAGES[:0], options).run()
        assert result.tokens.shape == (0, 2, SearchOptions().max_length)
        assert result.scores.shape == (0, 2)


@pytest.mark.parametrize(
    ("banned", "prefix", "message"),
    [
        ((9,), (), r"banned ids \[9\] are outside the decoder's 9 words"),
        ((), (-1,), r"forced ids \[-1\] are outside"),
        ((EOS,), (), "the end of a caption cannot be banned"),
        ((), (4, PAD), "made of words, not of markers"),
        ((), (4, 5, 6), "of 3 words leaves no room: captions have at most 3"),
        ((3, 4, 5, 6, 7, 8), (), "8 of 9 words are banned"),
    ],
)
def test_ids_that_do_not_fit(banned: Words, prefix: Words, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(Tree(9), IMAGES, SearchOptions(max_length=3), banned=banned, prefix=prefix).run()


def test_keys_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="one int64 for each of 5 images"):
        Task(Tree(9), IMAGES, SearchOptions(), keys=torch.zeros(4, dtype=torch.int64)).run()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same() -> None:
    for options in (
        SearchOptions(beam=4, n_best=4),
        SearchOptions(beam=4, groups=2, n_best=3),
        SearchOptions(method="sample", n_best=3),
    ):
        task = Task(Tree(700, ends=4.0), IMAGES, options)
        here, there = task.run(), task.run(features=IMAGES.cuda())
        assert torch.equal(there.tokens.cpu(), here.tokens)
        torch.testing.assert_close(there.scores.cpu(), here.scores)


def test_a_forced_word_that_the_decoder_rules_out() -> None:
    """It comes all the same, at a price."""
    torch.manual_seed(0)
    for method in ("beam", "sample"):
        options = SearchOptions(method=method, max_length=5)  # type: ignore[arg-type]
        result = Task(UsedWords(9, 6), torch.randn(2, 6), options, banned=(3,), prefix=(5, 5)).run()
        for image in range(2):
            [caption] = read(result, image)
            assert caption.words[:2] == (5, 5)
            assert caption.mean < -100 / 6

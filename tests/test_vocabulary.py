"""The cleaning, the list of words and its JSON."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.vocabulary import BOS, EOS, PAD, SPECIAL_WORDS, UNK, Vocabulary, VocabularyError, WordCounts, tokenize

FLICKR8K = Path(__file__).parents[2] / "shared" / "flickr8k"


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (
            "A black dog is running after a white dog in the snow .",
            "a black dog is running after a white dog in the snow",
        ),
        ('Two dogs, 3 cats & a T-shirt\'s "logo"!', "two dogs 3 cats a tshirts logo"),
        ("“Smart” quotes – and an ellipsis…", "smart quotes and an ellipsis"),
        ("\tblanks\nof every\u00a0kind \u200b", "blanks of every kind"),
        ("Cafe\u0301 and café", "café and café"),
        ("  . - ", ""),
        ("", ""),
    ],
)
def test_tokenize(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


@given(st.text(max_size=80))
def test_tokenize_twice_changes_nothing(caption: str) -> None:
    words = tokenize(caption)
    assert tokenize(" ".join(words)) == words
    assert all(word and word.split() == [word] for word in words)


def test_build_orders_by_count_then_alphabet() -> None:
    vocabulary = Vocabulary.build(["b a c", "c a b", "A!", "d"], min_count=2)
    assert vocabulary.words == (*SPECIAL_WORDS, "a", "b", "c")
    assert Vocabulary.build(["x"], min_count=2).words == SPECIAL_WORDS
    with pytest.raises(ValueError, match="min_count must be at least 1, not 0"):
        Vocabulary.build(["x"], min_count=0)


@settings(deadline=None)
@given(st.lists(st.text("abcé .,", max_size=20), max_size=12), st.integers(1, 4))
def test_build_keeps_the_frequent_words_whatever_the_captions(captions: list[str], min_count: int) -> None:
    occurrences = [word for caption in captions for word in tokenize(caption)]
    vocabulary = Vocabulary.build(captions, min_count)
    assert set(vocabulary.words) == {*SPECIAL_WORDS, *(w for w in occurrences if occurrences.count(w) >= min_count)}
    counts = [occurrences.count(word) for word in vocabulary.words[len(SPECIAL_WORDS) :]]
    assert counts == sorted(counts, reverse=True)
    assert Vocabulary.build(reversed(captions), min_count) == vocabulary
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=6), st.text(max_size=30))
def test_encoding_and_decoding_gives_the_words_back_or_unknown(captions: list[str], caption: str) -> None:
    vocabulary = Vocabulary.build(captions, min_count=1)
    for said in captions:
        assert UNK not in vocabulary.encode(said)
        assert vocabulary.decode([BOS, *vocabulary.encode(said), EOS, UNK]) == " ".join(tokenize(said))
    ids = vocabulary.encode(caption)
    assert len(ids) == len(tokenize(caption))
    assert [number == UNK for number in ids] == [word not in vocabulary for word in tokenize(caption)]


def test_report() -> None:
    counts = WordCounts.of(["A dog runs", "a dog", "", "A cat, a cat and a yeti"])
    assert counts.lengths == {0: 1, 2: 1, 3: 1, 7: 1}
    assert counts.report(Vocabulary.from_counts(counts, 2)) == (
        "7 words, 4 of them special: <pad>, <start>, <end>, <unk>\n"
        "  4 captions of 3.0 words on average, at most 7 (9 with <start> and <end>)\n"
        "  3 of their 6 different words are known\n"
        "  3 of their 12 words become <unk> (25.00%)\n"
        "  commonest of these: and 1, runs 1, yeti 1"
    )
    assert "<unk> (0.00%)" in counts.report(Vocabulary.from_counts(counts, 1)).splitlines()[-1]
    assert WordCounts.of(["", "."]).report(Vocabulary(SPECIAL_WORDS)) == "no words in 2 captions"
    with pytest.raises(ValueError, match="min_count must be at least 1, not 0"):
        Vocabulary.from_counts(counts, 0)


def test_encode_and_decode() -> None:
    vocabulary = Vocabulary.build(["a dog runs"], min_count=1)
    assert vocabulary.encode("A dog sleeps.") == [4, 5, UNK]
    assert vocabulary.decode([BOS, 4, 5, EOS, 6, PAD]) == "a dog"
    assert vocabulary.decode([PAD, 4, UNK]) == "a <unk>"
    assert vocabulary.decode([]) == ""
    assert vocabulary.id("dog") == 5
    assert "dog" in vocabulary
    assert "cat" not in vocabulary
    assert len(vocabulary) == 7
    for number in (7, -1):
        with pytest.raises(VocabularyError, match="outside this vocabulary of 7"):
            vocabulary.decode([number])


def test_json_round_trip() -> None:
    vocabulary = Vocabulary.build(["ein Café", "犬 走る", "a <b>"], min_count=1)
    text = vocabulary.to_json()
    assert Vocabulary.from_json(text) == vocabulary
    assert Vocabulary.from_json(text.encode()) == vocabulary
    assert Vocabulary.from_json(text).to_json() == text
    assert pickle.loads(pickle.dumps(vocabulary)).encode("ein") == vocabulary.encode("ein")


def words_json(*words: object, version: object = 1) -> str:
    return json.dumps({"format": version, "words": [*SPECIAL_WORDS, *words]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", 'a list "words"'),
        ('{"format": 1}', 'a list "words"'),
        ('{"format": 1, "words": "abc"}', 'a list "words"'),
        (words_json(version=2), "format 2; this captionkit reads 1: update"),
        (words_json(version=None), "format None"),
        ('{"format": 1, "words": ["a", "b"]}', "begins with"),
        ('{"format": 1, "words": []}', "begins with"),
        (words_json("dog", "dog"), "word 5 of the vocabulary, 'dog', is also word 4"),
        (words_json("<unk>"), "is also word 3"),
        (words_json(7), "word 4 of the vocabulary is not a word: 7"),
        (words_json(None), "not a word"),
        (words_json(["dog"]), "not a word"),
        (words_json(""), "not a word"),
        (words_json("two words"), "not a word"),
        (words_json("line\n"), "not a word"),
        (words_json("nul\x00"), "not a word"),
    ],
)
def test_from_json_trusts_nothing(text: str | bytes, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_json(text)


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs the Flickr8k captions in ../shared/flickr8k")
def test_flickr8k_gives_the_known_vocabulary() -> None:
    """1,660 with padding and both markers, and 38 tokens with both markers; our list also has <unk>."""
    training = set((FLICKR8K / "Flickr_8k.trainImages.txt").read_text().split())
    rows = (line.split("\t") for line in (FLICKR8K / "Flickr8k.token.txt").read_text("utf-8").splitlines())
    captions = [caption for name, caption in rows if name.split("#")[0] in training]
    assert len(captions) == 30_000
    counts = WordCounts.of(captions)
    assert len(Vocabulary.from_counts(counts, min_count=10)) - 1 == 1_660
    assert max(counts.lengths) + 2 == 38

"""Fifteen real files of other people's captioners: read, or refused in the right words."""

from __future__ import annotations

from pathlib import Path

import pytest

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.keras_graph import find_layers
from captionkit.adopt.parts import choose_words
from captionkit.adopt.words import to_rows

REAL = Path(__file__).parents[3] / "shared" / "captioner-files"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/captioner-files")


def read(name: str) -> Given:
    return look((REAL / name).read_bytes(), name)


@pytest.mark.parametrize(
    ("name", "count", "first", "markers"),
    [
        ("idx_to_word-collision.pkl", 1_802, (1, "in"), {"start": 1801, "end": 1802}),
        ("infos-python2.pkl", 2_294, (1, "arrives"), {"start": 0, "end": 0, "pad": 0}),
        ("tokenizer-keras3-stripped-markers.p", 15, (1, "in"), {"start": 2, "end": 15}),
        ("tokenizer-num-words.pkl", 1_356, (1, "<unk>"), {"end": 503, "unk": 1}),
        ("vocabulary-id2word.pkl", 58, (0, ""), {"pad": 2, "start": 3, "end": 1, "unk": 4}),
        ("vocabulary-plain-dict.pkl", 43, (0, "<PAD>"), {"pad": 0, "start": 1, "end": 2, "unk": 3}),
        ("vocabulary-python2.pkl", 3_178, (0, "<pad>"), {"pad": 0, "start": 1, "end": 2, "unk": 3}),
        ("vocabulary-torch-zip-itos.pkl", 34, (0, "<PAD>"), {"pad": 0, "start": 1, "end": 2, "unk": 3}),
        ("vocabulary-word2idx.pkl", 57, (0, "<pad>"), {"pad": 0, "start": 1, "end": 2, "unk": 3}),
        ("word_to_idx-collision.pkl", 1_801, (1, "in"), {"start": 1801, "end": 1802}),
        ("word_to_idx-gap-at-3.pkl", 1_862, (0, "<NULL>"), {"pad": 0, "start": 1, "end": 2}),
        ("word_to_idx-holds-the-inverse.pkl", 903, (1, "a"), {"start": 5137, "end": 5138}),
        ("wordmap-gap.json", 2_058, (0, "<pad>"), {"pad": 0, "start": 2056, "end": 2057, "unk": 2058}),
    ],
)
def test_a_vocabulary_is_read(name: str, count: int, first: tuple[int, str], markers: dict[str, int]) -> None:
    words = read(name).words
    assert words is not None
    assert len(words.words) == count
    assert words.words[first[0]] == first[1]
    assert words.markers == markers
    if "start" in markers:
        rows = to_rows(words, words.rows, words.rows)
        places = {old: new for new, old in enumerate(rows.embedding) if new > 3}
        odd = [n for n, word in words.words.items() if n in places and rows.vocabulary.words[places[n]] != word]
        # An empty word, and those that have a second number.
        assert all(not words.words[n] or list(words.words.values()).count(words.words[n]) > 1 for n in odd)


def test_the_two_halves_of_a_collision_give_one_vocabulary() -> None:
    """A marker's number was copied from a tutorial, over a real word's: index → word has what captions are made of."""
    given = {name: read(name).words for name in ("word_to_idx-collision.pkl", "idx_to_word-collision.pkl")}
    name, words = choose_words({key: one for key, one in given.items() if one}, 1_803, "decoder")
    assert name == "idx_to_word-collision.pkl"
    assert (words.words[673], words.markers["end"]) == ("end", 1802)
    with pytest.raises(AdoptError, match=r"9,000 rows for words.*1,803"):
        choose_words({name: words}, 9_000, "decoder")


def test_a_tokenizer_tells_of_what_the_model_never_learned() -> None:
    words = read("tokenizer-num-words.pkl").words
    assert words is not None
    assert words.limit == 541
    assert any("816 of its words" in note for note in words.notes)
    with pytest.raises(AdoptError, match="no start marker"):
        to_rows(words, 541, 541)


def test_a_network_and_a_named_function_are_read_and_nothing_is_run() -> None:
    assert read("names-a-function.pkl").words is None
    described = read("keras-model-4483-4481.json")
    assert described.keras is not None
    layers = find_layers(described.keras)
    assert (layers.joined, layers.gates, layers.max_length) == ("add", "sigmoid", 18)

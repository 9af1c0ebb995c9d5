"""Word vectors for a vocabulary."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.corpus.glove import WordVectors, read_glove
from captionkit.corpus.record import CorpusError
from captionkit.storage import Storage
from captionkit.vocabulary import SPECIAL_WORDS, Vocabulary

URI = "memory://glove/vectors.txt"
WORDS = (*SPECIAL_WORDS, "a", "dog", "café", "yeti")
TEXT = (
    ", 9 9 9\n"
    "dog 1 2 3\n"
    ". . . 4 5 6\n"  # as in 840B
    "dog house 7 8 9\n"
    "a 0.5 -1e-3 2\r\n"
    "dog 7 7 7\n"
    "café 1 1 1 \n"
    "at name@domain.com 1 2 3\n"
)


def read(text: str | bytes, words: tuple[str, ...] = WORDS, **options: object) -> WordVectors:
    Storage().write(URI, text.encode() if isinstance(text, str) else text)
    return read_glove(URI, words, **options)  # type: ignore[arg-type]


def test_vectors_and_report() -> None:
    vectors = read(TEXT, counts={"a": 6, "dog": 2, "yeti": 1, "rare": 1})
    assert vectors.matrix.dtype == np.float32
    assert vectors.has_vector.tolist() == [False] * 4 + [True, True, True, False]
    np.testing.assert_array_equal(vectors.matrix[4:7], np.array([[0.5, -1e-3, 2], [1, 2, 3], [1, 1, 1]], np.float32))
    assert not vectors.matrix[0].any()
    assert (vectors.lines, vectors.broken, vectors.repeated) == (8, 0, 1)
    assert vectors.coverage == 3 / 4
    assert vectors.missing() == ["yeti"]
    assert str(vectors) == (
        "memory://glove/vectors.txt: 8 vectors of 3 numbers\n"
        "  3 of 4 words found (75.0%)\n"
        "  they cover 8 of 10 tokens (80.0%)\n"
        "  without a vector: yeti\n"
        "  1 line for words that already had a vector; the first is used"
    )


def test_tokens_with_blanks_are_told_from_their_first_part() -> None:
    vectors = read(TEXT, words=(".", "at", "dog house", ". . ."))
    assert vectors.has_vector.tolist() == [False, False, True, True]
    assert vectors.matrix[2:].tolist() == [[7, 8, 9], [4, 5, 6]]


def test_words_without_a_vector_are_drawn_alike_every_time_or_zero() -> None:
    first, again, other = read(TEXT), read(TEXT), read(TEXT, seed=1)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    missing = [1, 2, 3, 7]
    assert (first.matrix[missing] != other.matrix[missing]).all()
    np.testing.assert_array_equal(first.matrix[first.has_vector], other.matrix[other.has_vector])
    assert not read(TEXT, seed=None).matrix[missing].any()


def test_drawn_vectors_are_spread_as_the_found_ones() -> None:
    lines = "".join(f"w{n} {n % 7} {100 + n % 3}\n" for n in range(300))
    words = tuple(f"{kind}{n}" for kind in "wx" for n in range(300))
    vectors = read(lines, words=words)
    found, drawn = vectors.matrix[:300], vectors.matrix[300:]
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(drawn.std(axis=0), found.std(axis=0), rtol=0.2)


def test_a_special_word_that_the_file_has_is_taken() -> None:
    vectors = read("<unk> 1 2\n<pad> 3 4\na 5 6\n")
    assert vectors.matrix[3].tolist() == [1, 2]
    assert vectors.matrix[0].tolist() == [0, 0]


def test_packed_and_with_word2vecs_header() -> None:
    vectors = read(gzip.compress(f"8 3\n{TEXT}".encode()))
    assert vectors.lines == 8
    assert vectors.has_vector.sum() == 3


def test_broken_lines_are_counted() -> None:
    vectors = read(TEXT + "yeti 1 2\nyeti 1 two 3\nyeti 1 nan 3\nyeti 1 1e300 3\nyeti\n")
    assert (vectors.broken, vectors.has_vector[7]) == (4, False)
    assert "4 lines could not be read" in str(vectors)


def test_nothing_found_and_nothing_wanted() -> None:
    vectors = read("x 1 2\n")
    assert not vectors.matrix.any()
    assert vectors.coverage == 0
    assert read("x 1 2\n", words=SPECIAL_WORDS).coverage == 1


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("", None, "holds no word vectors"),
        ("one\ntwo\n", None, "holds no word vectors"),
        ("400000 300\n", None, "holds no word vectors"),
        ("dog 1 2 3\n", 300, "holds vectors of 3 numbers, not of 300"),
    ],
)
def test_other_files_are_told(text: str, dimension: int | None, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read(text, dimension=dimension)


TOKENS = st.lists(st.text("ab.é@", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(TOKENS, st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=4, max_size=12),
    st.data(),
)
def test_what_is_written_is_read(table: dict[str, list[float]], data: st.DataObject) -> None:
    """Wherever the tokens have blanks, as long as most have none."""
    plain = {f"p{number}": [0.0, 1.0, 2.0] for number in range(len(table) + 1)}
    rows = list((plain | table).items())
    text = "".join(f"{token} {' '.join(map(repr, vector))}\n" for token, vector in data.draw(st.permutations(rows)))
    words = tuple(data.draw(st.permutations([*table, "absent"])))
    vectors = read(text, words=words, seed=None)
    for word, row, found in zip(words, vectors.matrix, vectors.has_vector, strict=True):
        assert row.tolist() == table.get(word, [0, 0, 0])
        assert bool(found) == (word in table)
    assert vectors.lines == len(rows)
    assert vectors.broken == vectors.repeated == 0


def test_a_vocabularys_words_fit() -> None:
    vocabulary = Vocabulary.build(["A dog, a dog"], min_count=1)
    vectors = read(TEXT, words=vocabulary.words)
    assert vectors.matrix.shape == (len(vocabulary), 3)
    assert vectors.matrix[vocabulary.id("dog")].tolist() == [1, 2, 3]

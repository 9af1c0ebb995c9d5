"""Word vectors for a vocabulary, from GloVe's text files.

Pennington, Socher and Manning 2014, "GloVe: Global Vectors for Word Representation".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from captionkit.corpus.files import MAX_LINE, opened
from captionkit.corpus.record import CorpusError
from captionkit.counting import counted
from captionkit.storage import Storage, redact
from captionkit.vocabulary import SPECIAL_WORDS

_PAD = SPECIAL_WORDS[0]
_LOOK_AHEAD = 1000
"""Lines from which the dimension is determined."""


@dataclass(frozen=True)
class WordVectors:
    """Vectors for a list of V words. `str()` is the report for users."""

    words: tuple[str, ...]
    matrix: npt.NDArray[np.float32]
    """(V, D)."""
    has_vector: npt.NDArray[np.bool_]
    """(V,), whether a word's vector is from the file; the others are random."""
    source: str
    """Address of the file, without secrets."""
    lines: int = 0
    """Lines of the file."""
    broken: int = 0
    """Lines of wanted words without D finite numbers."""
    repeated: int = 0
    """Further lines of words that already have a vector."""
    tokens: int = 0
    """Occurrences of all words, if counts were given."""
    tokens_found: int = 0
    """Occurrences of words with a vector from the file."""

    @property
    def coverage(self) -> float:
        """Share of the words, except special ones, whose vectors are from the file; 1 without words."""
        ordinary = [
            bool(hit) for word, hit in zip(self.words, self.has_vector, strict=True) if word not in SPECIAL_WORDS
        ]
        return sum(ordinary) / len(ordinary) if ordinary else 1.0

    def missing(self) -> list[str]:
        """Words without a vector in the file, except special ones, in order."""
        pairs = zip(self.words, self.has_vector, strict=True)
        return [word for word, hit in pairs if not hit and word not in SPECIAL_WORDS]

    def __str__(self) -> str:
        ordinary = sum(word not in SPECIAL_WORDS for word in self.words)
        missing = self.missing()
        text = [
            f"{self.source}: {counted(self.lines, 'vector')} of {self.matrix.shape[1]} numbers",
            f"  {ordinary - len(missing):,} of {counted(ordinary, 'word')} found ({self.coverage:.1%})",
        ]
        if self.tokens:
            share = self.tokens_found / self.tokens
            text.append(f"  they cover {self.tokens_found:,} of {self.tokens:,} tokens ({share:.1%})")
        if missing:
            text.append(f"  without a vector: {', '.join(missing[:20])}{', …' if len(missing) > 20 else ''}")
        if self.broken:
            text.append(f"  {counted(self.broken, 'line')} could not be read")
        if self.repeated:
            text.append(f"  {counted(self.repeated, 'line')} for words that already had a vector; the first is used")
        return "\n".join(text)


def read_glove(
    uri: str,
    words: Sequence[str],
    *,
    counts: Mapping[str, int] | None = None,
    dimension: int | None = None,
    seed: int | None = 0,
    storage: Storage | None = None,
) -> WordVectors:
    """Vectors of `words`, in their order, from a text file of `WORD NUMBER NUMBER …`, read once as a stream.

    A word is everything before the last D numbers of a line, since some in `glove.840B.300d` contain blanks (". . .",
    "at name@domain.com"). Lines of other words are skipped unparsed. Only the requested words' vectors are in memory.

    Args:
        uri: text, compressed (.gz, or a .zip with one file in it) or not, with or without word2vec's line of sizes.
        words: such as `Vocabulary.words`. `<pad>` gets zeros.
        counts: how often words occur, for the coverage of tokens.
        dimension: D. Default: that of most of the first lines.
        seed: words without a vector get normally distributed random ones, with the mean and standard deviation of the
            found vectors in each dimension; None gives them zeros.
        storage: default: with options from the environment.

    Raises:
        CorpusError: not a file of word vectors, or of another dimension.
        StorageError: it cannot be read.
    """
    row_of = {word.encode(): number for number, word in enumerate(words) if word != _PAD}
    heads = {word.partition(b" ")[0] for word in row_of}
    count = broken = repeated = 0
    with opened(storage or Storage(), uri) as file:
        lines = _lines(file)
        first = list(islice(lines, _LOOK_AHEAD))
        size = _dimension(uri, first, dimension)
        if first and _is_header(first[0], size):
            del first[0]
        matrix = np.zeros((len(words), size), np.float32)
        has_vector = np.zeros(len(words), np.bool_)
        for line in chain(first, lines):
            count += 1
            if line[: line.find(b" ")] not in heads:
                continue
            token, *numbers = line.rsplit(b" ", size)
            row = row_of.get(token)
            if row is None:
                continue
            if has_vector[row]:
                repeated += 1
                continue
            vector = _vector(numbers, size)
            if vector is None:
                broken += 1
                continue
            matrix[row], has_vector[row] = vector, True
    if seed is not None and has_vector.any():
        random = np.random.default_rng(seed)
        drawn = random.normal(matrix[has_vector].mean(axis=0), matrix[has_vector].std(axis=0), matrix.shape)
        missing = ~has_vector & np.array([word != _PAD for word in words], np.bool_)
        matrix[missing] = drawn[missing]
    is_found = dict(zip(words, has_vector, strict=True)) if counts else {}
    return WordVectors(
        tuple(words),
        matrix,
        has_vector,
        redact(uri),
        count,
        broken,
        repeated,
        sum((counts or {}).values()),
        sum(number for word, number in (counts or {}).items() if is_found.get(word)),
    )


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE):
        if line := line.rstrip(b" \r\n"):
            yield line


def _dimension(uri: str, lines: Iterable[bytes], wanted: int | None) -> int:
    """D: the number of fields after the first one that most lines have."""
    votes: dict[int, int] = {}
    for line in lines:
        fields = line.split(b" ")
        numbers = len(fields) - 1
        if numbers > 1:
            votes[numbers] = votes.get(numbers, 0) + 1
    size = max(votes, key=lambda number: (votes[number], -number)) if votes else 0
    if size < 2:
        raise CorpusError(
            f"{redact(uri)} holds no word vectors: expected lines of a word and numbers, with blanks between"
        )
    if wanted is not None and wanted != size:
        raise CorpusError(f"{redact(uri)} holds vectors of {size} numbers, not of {wanted}")
    return size


def _is_header(line: bytes, size: int) -> bool:
    fields = line.split()
    return len(fields) == 2 and all(field.isdigit() for field in fields) and int(fields[1]) == size


def _vector(numbers: list[bytes], size: int) -> npt.NDArray[np.float32] | None:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(number) for number in numbers]).astype(np.float32)
    except ValueError:
        return None
    return vector if len(vector) == size and np.isfinite(vector).all() else None

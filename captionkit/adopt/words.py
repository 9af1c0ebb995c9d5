"""Vocabularies in any layout that people keep them in, and the same words in captionkit's order.

Objects of a class `Vocabulary` with `word2idx`, `itos`, `id2word` and the like, torchtext's, Keras tokenizers, plain
dictionaries either way round, lists of words: read by what is in them, since names tell little (a `word_to_idx.pkl` may
hold the inverse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.pickles import Record, Unordered
from captionkit.vocabulary import SPECIAL_WORDS, Vocabulary

Marker = Literal["pad", "start", "end", "unk"]
MARKERS: dict[Marker, tuple[str, ...]] = {
    "pad": ("<pad>", "<padding>", "[pad]", "<null>", "<blank>", "#pad#"),
    "start": ("<start>", "<sos>", "<bos>", "<s>", "startseq", "<startseq>", "[start]", "[sos]", "[bos]", "<go>",
              "<begin>", "#start#", "startofseq", "sos", "bos", "start"),
    "end": ("<end>", "<eos>", "</s>", "endseq", "<endseq>", "[end]", "[eos]", "<stop>", "#end#", "endofseq", "eos",
            "end"),
    "unk": ("<unk>", "<unknown>", "[unk]", "<oov>", "#unk#", "unk", "oov"),
}  # fmt: skip
"""Words that authors use as markers, likeliest first; upper and lower case alike. "start" and "end" come last: Keras's
tokenizer strips "<" and ">", and captions may hold both as words."""
_ATTRIBUTES: dict[Marker, str] = {"start": "start_word", "end": "end_word", "unk": "unk_word"}
"""Attributes in which Udacity's vocabularies name their markers."""
_COUNTS = ("freq", "count", "docs", "threshold")
"""In names of attributes that hold counts of words, not their numbers."""
NEVER = -1e4
"""The logit of a word that the adopted captioner lacks: its probability is 0 in any number format, and it fits fp16."""


@dataclass
class WordList:
    """A vocabulary as it was found.

    Attributes:
        words: by their numbers.
        what: the layout, for people.
        markers: their numbers, where they were found.
        limit: the model's rows, where the vocabulary tells: numbers from here on are words it never learned.
        udacity, keras: of which project the layout is.
    """

    words: dict[int, str]
    what: str
    markers: dict[Marker, int] = field(default_factory=dict)
    limit: int | None = None
    udacity: bool = False
    keras: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """One more than the greatest number."""
        return max(self.words) + 1

    def describe(self) -> str:
        """Layout, size and markers, in a line."""
        marks = ", ".join(f"{name} {self.words.get(n, '')!r} = {n}" for name, n in self.markers.items())
        numbers = f"{len(self.words):,} words, numbers {min(self.words)} to {self.rows - 1:,}"
        return f"{self.what}: {numbers}; {marks or 'no markers'}"


@dataclass(frozen=True)
class Rows:
    """How a captioner's rows become captionkit's: for each word of `vocabulary` the row of the embedding, and of the
    output layer, that it had; None where it had none."""

    vocabulary: Vocabulary
    embedding: tuple[int | None, ...]
    output: tuple[int | None, ...]

    def embed(self, weight_VE: Tensor) -> Tensor:
        """An embedding's rows in the new order, zeros for words that are new."""
        return _take(weight_VE, self.embedding, 0.0)

    def out(self, weight_VH: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor]:
        """An output layer's rows in the new order; words that are new are never predicted."""
        bias_V = weight_VH.new_zeros(len(weight_VH)) if bias_V is None else bias_V
        return _take(weight_VH, self.output, 0.0), _take(bias_V, self.output, NEVER)


def _take(tensor: Tensor, rows: Sequence[int | None], fill: float) -> Tensor:
    known = torch.tensor([row is not None for row in rows])
    made = torch.full((len(rows), *tensor.shape[1:]), fill, dtype=tensor.dtype)
    made[known] = tensor[[row for row in rows if row is not None]]
    return made


def read_words(value: Any, base: int | None = None) -> WordList | None:
    """The vocabulary in a pickled or JSON value; None where there is none.

    Args:
        base: the number of the first word, where the value does not tell or is wrong.
    """
    word_list = _read(value, 3)
    if word_list is None:
        return None
    if base is not None and (shift := base - min(word_list.words)):
        word_list.words = {number + shift: word for number, word in word_list.words.items()}
        word_list.notes.append(f"numbers moved by {shift:+}, as --index-base {base} asks")
    _find_markers(word_list, value.attributes if isinstance(value, Record) else {})
    # ruotianluo's infos, and the JSON of his data
    if isinstance(value, dict) and ({"opt", "vocab"} <= value.keys() or {"ix_to_word", "images"} <= value.keys()):
        word_list.markers |= {"pad": 0, "start": 0, "end": 0}
    return word_list


def _read(value: Any, depth: int) -> WordList | None:
    if isinstance(value, Record):
        word_list = _from_parts(value.attributes, depth) or _from_parts({"": value.entries, " ": value.items}, depth)
        if word_list is None:
            return None
        attributes = value.attributes
        word_list.what = f"{value.kind} with {word_list.what}"
        word_list.udacity = "start_word" in attributes and "vocab_file" in attributes
        word_list.keras = "word_index" in attributes and "document_count" in attributes
        if word_list.keras and isinstance(attributes.get("num_words"), int):
            word_list.limit = attributes["num_words"]
            beyond = sum(number >= word_list.limit for number in word_list.words)
            if beyond:
                word_list.notes.append(f"num_words={word_list.limit}: {beyond:,} of its words are none of the model's")
        return word_list
    if isinstance(value, dict):
        return _from_dict(value) or _from_parts(value, depth)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "U":
        value = value.tolist()
    if isinstance(value, (list, tuple)) and not isinstance(value, Unordered):
        if len(value) > 2 and all(_is_pair(pair) for pair in value):
            return _from_dict(dict(value))
        if len(value) > 2 and all(isinstance(word, str) for word in value):
            return WordList(dict(enumerate(value)), "a list of words")
        if len(value) <= 4:
            return _from_parts({f"part {place}": one for place, one in enumerate(value, 1)}, depth)
    return None


def _from_parts(parts: Mapping[Any, Any], depth: int) -> WordList | None:
    """Of the attributes that are vocabularies, index → word and word → index together."""
    if not depth:
        return None
    by_index = {}
    for name, part in parts.items():
        if isinstance(name, str) and not any(count in name.lower() for count in _COUNTS):
            read = _read(part, depth - 1)
            if read is not None:
                by_index[name] = read
    if not by_index:
        return None
    # What captions are written with; word → index can have two words of one number.
    inverse = [name for name, one in by_index.items() if one.what.startswith(("index", "a list"))]
    first = inverse[0] if inverse else next(iter(by_index))
    best = by_index[first]
    names = [name.strip() for name in by_index if name.strip()]
    for name, other in by_index.items():
        if name != first and (odd := _differ(best, other)):
            best.notes.append(f"{first} and {name} disagree about {odd}; {first} holds")
    best.what = " and ".join(names) if names else best.what
    return best


def _differ(one: WordList, other: WordList) -> str:
    odd = [n for n in {**one.words, **other.words} if one.words.get(n) != other.words.get(n)]
    if not odd:
        return ""
    n = min(odd)
    return f"{len(odd)} numbers ({n} is {one.words.get(n)!r}, and {other.words.get(n)!r})"


def _from_dict(value: dict[Any, Any]) -> WordList | None:
    if len(value) < 3:
        return None
    if all(isinstance(key, str) for key in value):
        if all(isinstance(one, dict) and isinstance(one.get("Rep"), int) for one in value.values()):
            value = {word: one["Rep"] for word, one in value.items()}
        numbers = {word: _as_index(one) for word, one in value.items()}
        if all(_is_index(one) for one in numbers.values()):
            return _from_forward(numbers)
        digits = all(key.isascii() and key.isdigit() and len(key) < 9 for key in value)
        if digits and all(isinstance(word, str) for word in value.values()):
            return WordList({int(key): word for key, word in value.items()}, "index (as text) → word")
        return None
    if all(_is_index(key) for key in value) and all(isinstance(word, str) for word in value.values()):
        return WordList({int(key): word for key, word in value.items()}, "index → word")
    return None


def _is_pair(value: object) -> bool:
    """A word and its number."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str) and _is_index(value[1])


def _as_index(value: Any) -> Any:
    """A number that was kept as text, or as 3.0."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000_000


def _from_forward(value: dict[str, int]) -> WordList | None:
    words: dict[int, str] = {}
    double = []
    for word, number in value.items():
        if number in words:
            double.append(number)
            if _is_marker(words[number]):  # the tutorial's numbers of markers, copied over real words
                continue
        words[number] = word
    if len(double) > 4 or max(words) > 2 * len(words) + 10:
        return None  # counts of words
    word_list = WordList(words, "word → index")
    if double:
        word_list.notes.append(f"two words each have the numbers {', '.join(map(str, double))}; one of them is lost")
    return word_list


def _is_marker(word: str) -> bool:
    return any(word.lower() in names for names in MARKERS.values())


def _find_markers(word_list: WordList, attributes: Mapping[Any, Any]) -> None:
    # Of a word that has two numbers the last: where "end" is a word of captions too, the marker was added after them.
    by_word = {word_list.words[number]: number for number in sorted(word_list.words)}
    lower = {word.lower(): number for word, number in by_word.items()}
    for marker, names in MARKERS.items():
        named = attributes.get(_ATTRIBUTES.get(marker, ""))
        if isinstance(named, str) and named in by_word:
            word_list.markers[marker] = by_word[named]
            continue
        name = next((name for name in names if name in lower), None)
        if name is not None:
            word_list.markers[marker] = by_word.get(name, lower[name])
    if "pad" not in word_list.markers and word_list.words.get(0) in ("", "pad", "PAD", "0"):
        word_list.markers["pad"] = 0
    docs, count = attributes.get("word_docs"), attributes.get("document_count")
    if isinstance(docs, dict) and isinstance(count, int):
        for marker in ("start", "end"):
            word = word_list.words.get(word_list.markers.get(marker, -1))
            if word is not None and docs.get(word) != count:
                word_list.notes.append(
                    f"{word!r} is not in every caption that the tokenizer read, as a marker would be: "
                    f"if it is a word, name the marker by --markers {marker}=WORD"
                )


def set_markers(word_list: WordList, given: Sequence[str]) -> None:
    """Markers as `--markers` names them: start=WORD or start=NUMBER.

    Raises:
        AdoptError: no such marker or word.
    """
    by_word = {word: number for number, word in word_list.words.items()}
    for one in given:
        marker, _, word = one.partition("=")
        if marker not in MARKERS:
            raise AdoptError(f"--markers takes {', '.join(f'{name}=WORD' for name in MARKERS)}, not {one!r}")
        if word in by_word:
            word_list.markers[marker] = by_word[word]
        elif word.isascii() and word.isdigit():
            word_list.markers[marker] = int(word)
        else:
            raise AdoptError(f"--markers {one}: the vocabulary has no word {word!r}")


def to_rows(word_list: WordList, embedding_rows: int, output_rows: int) -> Rows:
    """captionkit's order: padding, start, end, unknown; then all other rows as they were.

    Every row stays, those without a word too, under a name like <row-17>, so that probabilities stay the same. A
    marker that the captioner lacks gets a row that is never predicted.

    Raises:
        AdoptError: no start or end marker.
    """
    limits: dict[Marker, int] = {"start": embedding_rows, "end": output_rows}
    for marker, rows in limits.items():
        number = word_list.markers.get(marker)
        if number is None:
            raise AdoptError(
                f"the vocabulary has no {marker} marker (looked for {', '.join(MARKERS[marker])}); its first words are "
                f"{', '.join(repr(word_list.words[n]) for n in sorted(word_list.words)[:6])}; "
                f"--markers {marker}=WORD names it"
            )
        if number >= rows:
            raise AdoptError(
                f"the {marker} marker {word_list.words.get(number, '')!r} is number {number:,}, and the decoder has "
                f"{rows:,} rows: vocabulary and decoder are of different captioners"
            )
    words, embedding, output = list(SPECIAL_WORDS), [], []
    used: set[int] = set()
    # The end comes first: where one number is start, end and padding, it is the end that is predicted.
    order: list[Marker] = ["end", "pad", "start", "unk"]
    out = {marker: n for marker in reversed(order) if (n := word_list.markers.get(marker)) is not None}
    owner = {n: marker for marker, n in out.items()}
    for marker in MARKERS:
        n = word_list.markers.get(marker)
        embedding.append(n if n is not None and n < embedding_rows else None)
        output.append(n if n is not None and n < output_rows and owner[n] == marker else None)
        used |= set() if n is None else {n}
    taken = set(words)
    for n in range(max(embedding_rows, output_rows)):
        if n in used:
            continue
        word = word_list.words.get(n, "")
        if word in taken or not word.isprintable() or word.split() != [word]:
            word = f"<row-{n}>"
        taken.add(word)
        words.append(word)
        embedding.append(n if n < embedding_rows else None)
        output.append(n if n < output_rows else None)
    return Rows(Vocabulary(tuple(words)), tuple(embedding), tuple(output))

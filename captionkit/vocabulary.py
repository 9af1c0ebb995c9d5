"""Vocabulary and tokenization: how a caption is split into words, and the ids of a captioner's words.

Tokenization is that of the usual tutorials: lower case, punctuation removed, split at blanks. One-letter words and
numbers are kept ("a" is the commonest word). On the 30,000 training captions of Flickr8k, a threshold of 10 gives 1,657
words: with padding and both markers, the 1,660 of the literature, which lacks `<unk>`. The longest caption has 36
words, or 38 with both markers.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from captionkit.counting import counted

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of padding, start marker, end marker and unknown words."""

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
"""The words with the ids `PAD`, `BOS`, `EOS` and `UNK`; every vocabulary begins with them."""

JSON_FORMAT = 1
"""Version of the format of `Vocabulary.to_json`."""


class VocabularyError(ValueError):
    """An invalid vocabulary. The message says what is wrong and where."""


class _Cleaner(dict[int, int | None]):
    """A `str.translate` table that is filled on demand: letters, marks and digits stay, white space becomes a blank."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        if character.isspace():
            result: int | None = ord(" ")
        else:
            result = code if unicodedata.category(character)[0] in "LMN" else None
        self[code] = result
        return result


_CLEANER = _Cleaner()


def tokenize(caption: str) -> list[str]:
    """Split a caption into words: lower case, without punctuation and symbols ("t-shirt's" becomes "tshirts").

    Accents are composed (NFC), so that each word has one spelling.
    """
    return unicodedata.normalize("NFC", caption.lower().translate(_CLEANER)).split()


@dataclass
class WordCounts:
    """Word counts of captions, from which a vocabulary is made."""

    words: Counter[str] = field(default_factory=Counter)
    """Occurrences by word."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Captions by number of words, without markers."""

    @classmethod
    def of(cls, captions: Iterable[str]) -> "WordCounts":
        """Count a stream of captions; the captions are not kept in memory."""
        counts = cls()
        for caption in captions:
            words = tokenize(caption)
            counts.words.update(words)
            counts.lengths[len(words)] += 1
        return counts

    def report(self, vocabulary: "Vocabulary") -> str:
        """How much of these captions a vocabulary covers, as a few lines of text."""
        captions, tokens = sum(self.lengths.values()), sum(self.words.values())
        if not tokens:
            return f"no words in {counted(captions, 'caption')}"
        unknown = {word: count for word, count in self.words.items() if word not in vocabulary}
        lost = sum(unknown.values())
        longest, mean = max(self.lengths), tokens / captions
        commonest = sorted(unknown, key=lambda word: (-unknown[word], word))[:10]
        lines = [
            f"{counted(len(vocabulary), 'word')}, {len(SPECIAL_WORDS)} of them special: {', '.join(SPECIAL_WORDS)}",
            f"  {counted(captions, 'caption')} of {mean:.1f} words on average, at most {longest} "
            f"({longest + 2} with {SPECIAL_WORDS[BOS]} and {SPECIAL_WORDS[EOS]})",
            f"  {len(self.words) - len(unknown):,} of their {len(self.words):,} different words are known",
            f"  {lost:,} of their {tokens:,} words become {SPECIAL_WORDS[UNK]} ({lost / tokens:.2%})",
        ]
        if commonest:
            lines.append("  commonest of these: " + ", ".join(f"{word} {unknown[word]:,}" for word in commonest))
        return "\n".join(lines)


@dataclass(frozen=True)
class Vocabulary:
    """The words of a captioner. The id of a word is its index.

    Raises:
        VocabularyError: the list does not begin with `SPECIAL_WORDS`, contains a word twice, or contains something that
            is not a word (empty, or with a blank or a control character).
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise VocabularyError(
                f"a vocabulary begins with {list(SPECIAL_WORDS)}, this one with {list(self.words[:4])!r:.200}"
            )
        ids: dict[str, int] = {}
        for place, word in enumerate(self.words):
            if not isinstance(word, str) or not word.isprintable() or word.split() != [word]:
                raise VocabularyError(f"word {place} of the vocabulary is not a word: {word!r:.100}")
            if word in ids:
                raise VocabularyError(f"word {place} of the vocabulary, {word!r:.100}, is also word {ids[word]}")
            ids[word] = place
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int) -> "Vocabulary":
        """The words that occur at least `min_count` times: most frequent first, ties alphabetically.

        Raises:
            ValueError: `min_count` is below 1.
        """
        return cls.from_counts(WordCounts.of(captions), min_count)

    @classmethod
    def from_counts(cls, counts: "WordCounts", min_count: int) -> "Vocabulary":
        """As `build`, from word counts.

        Raises:
            ValueError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, not {min_count}")
        frequent = [word for word, count in counts.words.items() if count >= min_count]
        return cls((*SPECIAL_WORDS, *sorted(frequent, key=lambda word: (-counts.words[word], word))))

    def __len__(self) -> int:
        """Number of words, including the four special ones."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def id(self, word: str) -> int:
        """The id of a word as `tokenize` returns it; `UNK` for an unknown one."""
        return self._ids.get(word, UNK)

    def encode(self, caption: str) -> list[int]:
        """The ids of a caption's words, without markers."""
        return [self.id(word) for word in tokenize(caption)]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of a sequence of ids: up to the first `EOS`, without `PAD` and `BOS`.

        Raises:
            VocabularyError: an id out of range.
        """
        words = []
        for number in ids:
            if number == EOS:
                break
            if not 0 <= number < len(self.words):
                raise VocabularyError(f"id {number} is outside this vocabulary of {len(self.words)} words")
            if number not in (PAD, BOS):
                words.append(self.words[number])
        return " ".join(words)

    def to_json(self) -> str:
        """The vocabulary as JSON; equal vocabularies give equal bytes."""
        content = {"format": JSON_FORMAT, "words": self.words}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Vocabulary":
        """A vocabulary from the JSON of `to_json`.

        Raises:
            VocabularyError: not JSON in UTF-8, of a newer format, or not a valid vocabulary.
        """
        try:
            content: Any = json.loads(text)
        except (
            ValueError,
            RecursionError,
        ) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise VocabularyError(f"the vocabulary is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("words"), list):
            raise VocabularyError('the vocabulary is not a JSON object with a list "words"')
        version = content.get("format")
        if version != JSON_FORMAT:
            raise VocabularyError(
                f"the vocabulary has format {version!r:.50}; this captionkit reads {JSON_FORMAT}: update it"
            )
        return cls(tuple(content["words"]))

"""Words and their numbers: how a caption is cut into words, and the list of words a captioner knows.

The cleaning is the tutorials' one: lower case, punctuation off, and what is left between blanks is a word.
One-letter words and numbers stay ("a" is the commonest word of a caption). On the 30,000 training captions of
Flickr8k with a threshold of 10 that gives 1,657 words: the 1,660 of the literature with padding and both
markers (`<unk>`, which they lack, makes our list one longer), and a longest caption of 36 words, or 38 with
both markers.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of padding, of the start and end markers, and of a word that is not in the list."""

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
"""The words with the ids `PAD`, `BOS`, `EOS` and `UNK`: every vocabulary begins with them."""

JSON_FORMAT = 1
"""The version of the layout that `Vocabulary.to_json` writes."""


class VocabularyError(ValueError):
    """A list of words that is not a vocabulary. The message says what is wrong and where."""


class _Cleaner(dict[int, int | None]):
    """A `str.translate` table, filled as characters are met: letters, marks, digits and blanks stay."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        if character.isspace():
            kept: int | None = ord(" ")
        else:
            kept = code if unicodedata.category(character)[0] in "LMN" else None
        self[code] = kept
        return kept


_CLEANER = _Cleaner()


def tokenize(caption: str) -> list[str]:
    """Cut a caption into words: lower case, punctuation and symbols off ("t-shirt's" is "tshirts").

    Accents are composed (NFC), so that one word has one spelling in bytes.
    """
    return unicodedata.normalize("NFC", caption.lower().translate(_CLEANER)).split()


@dataclass
class WordCounts:
    """How often words occur in captions: what a vocabulary is made from and judged by.

    words: occurrences by word. lengths: captions by their number of words, markers not counted.
    """

    words: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, captions: Iterable[str]) -> "WordCounts":
        """Count a stream of captions; what is held are the words, not the captions."""
        counts = cls()
        for caption in captions:
            words = tokenize(caption)
            counts.words.update(words)
            counts.lengths[len(words)] += 1
        return counts

    def report(self, vocabulary: "Vocabulary") -> str:
        """What a vocabulary keeps of these captions, in a few lines for people."""
        captions, tokens = sum(self.lengths.values()), sum(self.words.values())
        if not tokens:
            return f"no words in {captions:,} captions"
        unknown = {word: count for word, count in self.words.items() if word not in vocabulary}
        lost = sum(unknown.values())
        longest, mean = max(self.lengths), tokens / captions
        commonest = sorted(unknown, key=lambda word: (-unknown[word], word))[:10]
        lines = [
            f"{len(vocabulary):,} words, {len(SPECIAL_WORDS)} of them special: {', '.join(SPECIAL_WORDS)}",
            f"  {captions:,} captions of {mean:.1f} words on average, at most {longest} "
            f"({longest + 2} with {SPECIAL_WORDS[BOS]} and {SPECIAL_WORDS[EOS]})",
            f"  {len(self.words) - len(unknown):,} of their {len(self.words):,} different words are known",
            f"  {lost:,} of their {tokens:,} words become {SPECIAL_WORDS[UNK]} ({lost / tokens:.2%})",
        ]
        if commonest:
            lines.append("  commonest of these: " + ", ".join(f"{word} {unknown[word]:,}" for word in commonest))
        return "\n".join(lines)


@dataclass(frozen=True)
class Vocabulary:
    """The words a captioner knows; a word's place in the list is its id.

    Raises `VocabularyError` for a list that does not begin with `SPECIAL_WORDS`, holds a word twice, or holds
    something that is not a word (empty, or with a blank or control character in it).
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
        """Take the words that occur at least `min_count` times: most frequent first, ties alphabetically.

        Raises:
            ValueError: `min_count` is below 1.
        """
        return cls.from_counts(WordCounts.of(captions), min_count)

    @classmethod
    def from_counts(cls, counts: "WordCounts", min_count: int) -> "Vocabulary":
        """As `build`, from words that have been counted already.

        Raises:
            ValueError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ValueError(f"min_count is {min_count}; a word counts from its first occurrence, so at least 1")
        frequent = [word for word, count in counts.words.items() if count >= min_count]
        return cls((*SPECIAL_WORDS, *sorted(frequent, key=lambda word: (-counts.words[word], word))))

    def __len__(self) -> int:
        """The number of ids, the four special ones included."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def id(self, word: str) -> int:
        """The id of a word as it stands in the list (`tokenize` first); `UNK` for one that is not there."""
        return self._ids.get(word, UNK)

    def encode(self, caption: str) -> list[int]:
        """The ids of a caption's words, without markers."""
        return [self.id(word) for word in tokenize(caption)]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption that some ids stand for: read up to the first `EOS`, `PAD` and `BOS` left out.

        Raises:
            VocabularyError: an id is not one of this vocabulary.
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
        """The list as JSON text; the same list gives the same text, byte for byte."""
        content = {"format": JSON_FORMAT, "words": self.words}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Vocabulary":
        """Read what `to_json` wrote.

        Raises:
            VocabularyError: not JSON in UTF-8, of a newer format, or not a valid list of words.
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

"""BLEU, METEOR, ROUGE-L, CIDEr-D and SPICE as papers report them, by pycocoevalcap's scorers and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from captionkit.counting import counted
from captionkit.metrics import reference
from captionkit.metrics.errors import MetricError
from captionkit.metrics.java import java_problem
from captionkit.metrics.meteor import MeteorProcess
from captionkit.metrics.spice import score_spice, spice_problem
from captionkit.metrics.tokens import Tokenizer, tokenize_captions

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEU, "METEOR", "ROUGE-L", "CIDEr-D", "SPICE")
"""The metrics' names, in the order in which they are reported."""

_JAVA = ("METEOR", "SPICE")
_Lines = dict[str, list[str]]
_Results = dict[str, tuple[float, Mapping[str, float]]]


@dataclass(frozen=True)
class Scores:
    """Scores of captions. BLEU, METEOR, ROUGE-L and SPICE range from 0 to 1, CIDEr-D from 0 to 10."""

    corpus: dict[str, float]
    """By metric, in the order of `METRICS`. BLEU is computed over the corpus, the others are means over images."""
    images: dict[str, dict[str, float]]
    """By image, in the references' order, and metric."""
    absent: dict[str, str] = field(default_factory=dict)
    """Requested metrics that could not be computed, with the reason."""
    tokenizer: Literal["ptb", "words", "none"] = "ptb"
    warning: str = ""
    """Why the scores are not comparable with published figures; empty if they are."""


class Scorer:
    """Scores several sets of captions of the same images: references are tokenized once, METEOR is started once.

    Use it as a context manager, or close it, since METEOR is a process.

    Args:
        references: of each image, at least one.
        metrics: some of `METRICS`.
        tokenizer: see `Tokenizer`; "auto" is right unless the captions are tokenized already.

    Raises:
        ValueError: no images, an image without references, references without a word, or an unknown metric.
        MetricError: pycocoevalcap is missing, or `tokenizer="ptb"` without Java.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        metrics: Sequence[str] = METRICS,
        tokenizer: Tokenizer = "auto",
    ) -> None:
        _check(references, metrics, tokenizer)
        self.metrics = tuple(name for name in METRICS if name in metrics)
        needs_java = tokenizer in ("auto", "ptb") or not set(self.metrics).isdisjoint(_JAVA)
        problem = java_problem() if needs_java else None
        if tokenizer == "ptb" and problem:
            raise MetricError(f"the PTB tokenizer cannot run: {problem}")
        if tokenizer == "auto":
            tokenizer = "words" if problem else "ptb"
        self.tokenizer = tokenizer
        self.warning = ""
        if tokenizer == "words":
            self.warning = "tokenized without the PTB tokenizer" + (f": {problem}" if problem else "")
        self.absent = dict.fromkeys((name for name in self.metrics if name in _JAVA), problem) if problem else {}
        if "SPICE" in self.metrics and not problem and (lacking := spice_problem()):
            self.absent["SPICE"] = lacking
        self._references = self._tokenize(references)
        if not any(line for lines in self._references.values() for line in lines):
            raise ValueError("the references have no word in them")
        self._meteor: MeteorProcess | None = None

    @property
    def tokenized_references(self) -> dict[str, list[str]]:
        """The references of each image as they are compared: words joined by blanks."""
        return {name: list(texts) for name, texts in self._references.items()}

    def score(self, candidates: Mapping[str, str]) -> Scores:
        """Score one caption per image. An empty caption scores 0 and counts.

        Raises:
            ValueError: the images differ from the references'.
            MetricError: the tokenizer fails.
        """
        for what, lacking in (
            ("no candidate", self._references.keys() - candidates.keys()),
            ("no references", candidates.keys() - self._references.keys()),
        ):
            if lacking:
                raise ValueError(f"{counted(len(lacking), 'image')} with {what}, such as {min(map(str, lacking))!r}")
        # In the references' order: the last digits of the reference implementation's results depend on it.
        lines = self._tokenize({name: [candidates[name]] for name in self._references})
        results: _Results = {}
        absent = {name: reason for name, reason in self.absent.items() if reason}
        for names, measure in self._measures():
            wanted = [name for name in names if name in self.metrics and name not in absent]
            if not wanted:
                continue
            try:
                results |= {name: value for name, value in measure(lines).items() if name in wanted}
            except MetricError as error:
                if wanted[0] not in _JAVA:  # pycocoevalcap itself is missing
                    raise
                absent[wanted[0]] = str(error)
        present = [name for name in self.metrics if name in results]
        return Scores(
            corpus={name: results[name][0] for name in present},
            images={image: {name: results[name][1][image] for name in present} for image in self._references},
            absent=absent,
            tokenizer=self.tokenizer,
            warning=self.warning,
        )

    def close(self) -> None:
        """End METEOR's process. May be called again."""
        if self._meteor is not None:
            self._meteor.close()
            self._meteor = None

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tokenize(self, captions: Mapping[str, Sequence[str]]) -> _Lines:
        flat = [caption for several in captions.values() for caption in several]
        lines = iter(tokenize_captions(flat, self.tokenizer))
        return {name: [next(lines) for _ in several] for name, several in captions.items()}

    def _measures(self) -> list[tuple[Sequence[str], Callable[[_Lines], _Results]]]:
        return [
            (BLEU, self._bleu),
            (("METEOR",), self._run_meteor),
            (("ROUGE-L",), lambda lines: {"ROUGE-L": self._plain(reference.rouge(), lines)}),
            (("CIDEr-D",), lambda lines: {"CIDEr-D": self._plain(reference.cider(), lines)}),
            (("SPICE",), lambda lines: {"SPICE": score_spice(self._references, lines)}),
        ]

    def _bleu(self, lines: _Lines) -> _Results:
        corpus, images = reference.bleu().compute_score(self._references, lines, verbose=0)
        return {
            name: (float(score), self._by_image(each)) for name, score, each in zip(BLEU, corpus, images, strict=True)
        }

    def _run_meteor(self, lines: _Lines) -> _Results:
        self._meteor = self._meteor or MeteorProcess()
        try:
            corpus, images = self._meteor.score(self._references, lines)
        except MetricError:
            self._meteor = None  # it is closed; the next call starts a new one
            raise
        return {"METEOR": (corpus, self._by_image(images))}

    def _plain(self, scorer: Any, lines: _Lines) -> tuple[float, Mapping[str, float]]:
        corpus, images = scorer.compute_score(self._references, lines)
        return float(corpus), self._by_image(images)

    def _by_image(self, values: Sequence[float]) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self._references, values, strict=True)}


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = METRICS,
    tokenizer: Tokenizer = "auto",
) -> Scores:
    """Score one caption per image against its references: `score({"a": "a dog"}, {"a": ["one dog", "dogs"]})`.

    Arguments and errors are those of `Scorer`, which is faster for several sets of captions of the same images.
    """
    with Scorer(references, metrics, tokenizer) as scorer:
        return scorer.score(candidates)


def _check(references: Mapping[str, Sequence[str]], metrics: Sequence[str], tokenizer: str) -> None:
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or isinstance(metrics, str):
        raise ValueError(f"unknown metrics {unknown or metrics!r}; choose from {', '.join(METRICS)}")
    if tokenizer not in get_args(Tokenizer):
        raise ValueError(f"tokenizer is one of {', '.join(get_args(Tokenizer))}, not {tokenizer!r}")
    if not references:
        raise ValueError("there are no images to score")
    for name, captions in references.items():
        if isinstance(captions, str) or not captions:
            raise ValueError(f"image {name!r} needs a list of references, at least one")

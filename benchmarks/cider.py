"""Our CIDEr-D against pycocoevalcap's, on the same made-up captions, in one run.

Prints ratios of the CPU times that a caption takes (absolute times depend on the machine and what else runs on it):
cold, with the references cut up and weighed, as pycocoevalcap does each time; warm, as for a reward in training, where
they are known; and for a batch of a training step's size. Also the largest difference between the scores.

    python benchmarks/cider.py
    python benchmarks/cider.py --images 113000 --hypotheses 5000    # frequencies of a corpus as large as COCO's
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import tyro
from _report import Row, report

from captionkit.metrics import CiderD


@dataclass(frozen=True)
class Options:
    """Times of CIDEr-D: ours and the reference implementation's."""

    hypotheses: int = 5000
    """Captions to score, each of its own image."""
    references: int = 5
    """References of an image."""
    images: int = 5000
    """Images whose references are known; pycocoevalcap gets only those that are scored."""
    vocabulary: int = 8000
    batch: int = 250
    """Captions of one training step."""
    seed: int = 0
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's own CPU time, which other work on the machine hardly touches; both use one core."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main(options: Options) -> None:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    chance = random.Random(options.seed)
    words = [f"w{number}" for number in range(options.vocabulary)]
    weights = list(accumulate(1 / (number + 1) for number in range(options.vocabulary)))  # Zipf's law

    def caption() -> list[str]:
        return chance.choices(words, cum_weights=weights, k=chance.randint(7, 14))

    references = [[caption() for _ in range(options.references)] for _ in range(options.images)]
    hypotheses = [caption() for _ in range(options.hypotheses)]

    def theirs() -> Any:
        scorer = CiderScorer()
        for hypothesis, captions in zip(hypotheses, references, strict=False):
            scorer += (" ".join(hypothesis), [" ".join(reference) for reference in captions])
        return scorer.compute_score()[1]

    images = range(options.hypotheses)
    reference_s, expected = timed(theirs)
    learn_s, scorer = timed(lambda: CiderD(references))
    warm_s, scores = timed(lambda: scorer.score(hypotheses, images))
    step_s, _ = timed(lambda: scorer.score(hypotheses[: options.batch], images[: options.batch]))
    each = reference_s / options.hypotheses
    timings = {
        "pycocoevalcap": (reference_s, options.hypotheses),
        "ours, cold": (learn_s + warm_s, options.hypotheses),
        "ours, warm": (warm_s, options.hypotheses),
        f"ours, a step of {options.batch}": (step_s, options.batch),
    }
    rows: list[Row] = [
        {"what": name, "µs a caption": 1e6 * took / count, "times as fast": each * count / took}
        for name, (took, count) in timings.items()
    ]
    print(f"{options.hypotheses} captions × {options.references} references, {options.images} images known")
    report(rows, options.json)
    print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if options.images == options.hypotheses:
        print(f"largest difference: {np.abs(scores - expected).max():.1e}")


if __name__ == "__main__":
    main(tyro.cli(Options))

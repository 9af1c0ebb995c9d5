"""SPICE, through pycocoevalcap, where its parser and the memory for it are there.

Anderson et al. 2016, "SPICE: Semantic Propositional Image Caption Evaluation", arXiv:1607.08822.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from captionkit.metrics.errors import MetricError
from captionkit.metrics.java import memory
from captionkit.metrics.reference import spice

HEAP = 8 * 2**30
"""Bytes: the heap that pycocoevalcap asks Java for."""

_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

# SPICE's cache looks into Java's own classes, which Java forbids from 16 on unless told otherwise. Java 8 knows
# neither the option nor the variable.
_OPENED = ("lang", "math", "net", "text", "util", "util.concurrent")


def spice_problem() -> str | None:
    """Why SPICE cannot be computed here, given Java; None where it can."""
    library = Path(spice().__file__).parent / "lib"
    missing = [name for name in _JARS if not (library / name).is_file()]
    if missing:
        return (
            f"SPICE's parser is missing ({', '.join(missing)} in {library}); where the internet is at hand, "
            "`python -m pycocoevalcap.spice.get_stanford_models` brings it (400 MB)"
        )
    if memory() < HEAP:
        return f"SPICE wants {HEAP / 2**30:.0f} GiB of memory for Java, and there are {memory() / 2**30:.1f}"
    return None


def score_spice(
    references: Mapping[str, list[str]], candidates: Mapping[str, list[str]]
) -> tuple[float, dict[str, float]]:
    """SPICE of the corpus and of each image (F over all tuples; not a number where there are none).

    Raises:
        MetricError: its Java program fails.
    """
    try:
        with _opened():
            corpus, images = spice().Spice().compute_score(references, candidates)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise MetricError(f"SPICE failed; what Java said of it stands above ({error})") from error
    # Its lists are sorted by image, whatever order the references have.
    found = {name: float(values["All"]["f"]) for name, values in zip(sorted(references), images, strict=True)}
    return float(corpus), found


@contextmanager
def _opened() -> Iterator[None]:
    name = "JDK_JAVA_OPTIONS"
    before = os.environ.get(name)
    opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED]
    os.environ[name] = " ".join([*([before] if before else []), *opened])
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

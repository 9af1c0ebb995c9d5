"""SPICE by pycocoevalcap, if its parser is installed and the memory suffices.

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
"""Java heap that pycocoevalcap requests, in bytes."""

_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

# SPICE's cache accesses Java's internal classes, which Java 16 and later forbid without these options. Java 8 ignores
# the environment variable that they are passed in.
_OPENED_PACKAGES = ("lang", "math", "net", "text", "util", "util.concurrent")


def spice_problem() -> str | None:
    """Why SPICE cannot be computed on this machine, given Java; None if it can."""
    library = Path(spice().__file__).parent / "lib"
    missing = [name for name in _JARS if not (library / name).is_file()]
    if missing:
        return (
            f"SPICE's parser is missing ({', '.join(missing)} in {library}); `python -m "
            "pycocoevalcap.spice.get_stanford_models` downloads it (400 MB)"
        )
    if memory() < HEAP:
        return f"SPICE needs {HEAP / 2**30:.0f} GiB of memory for Java, and this machine has {memory() / 2**30:.1f}"
    return None


def score_spice(
    references: Mapping[str, list[str]], candidates: Mapping[str, list[str]]
) -> tuple[float, dict[str, float]]:
    """SPICE of the corpus and of each image: F-score over all tuples, from 0 to 1; NaN without tuples.

    Raises:
        MetricError: its Java program fails.
    """
    try:
        with _with_opened_packages():
            corpus, images = spice().Spice().compute_score(references, candidates)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise MetricError(f"SPICE failed; Java's messages are above ({error})") from error
    # Its results are sorted by image.
    by_image = {name: float(values["All"]["f"]) for name, values in zip(sorted(references), images, strict=True)}
    return float(corpus), by_image


@contextmanager
def _with_opened_packages() -> Iterator[None]:
    name = "JDK_JAVA_OPTIONS"
    before = os.environ.get(name)
    options = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED_PACKAGES]
    os.environ[name] = " ".join([*([before] if before else []), *options])
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

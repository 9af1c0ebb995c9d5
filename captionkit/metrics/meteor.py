"""METEOR: pycocoevalcap's, around a Java process that cannot hang, and ends.

Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language".
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Timer
from typing import Any

from captionkit.metrics.errors import MetricError
from captionkit.metrics.java import LOCALE, last_line
from captionkit.metrics.reference import meteor

START_SECONDS = 900.0
"""Patience for Java to load METEOR's paraphrases; 5 to 20 seconds are usual."""

IMAGE_SECONDS = 0.5
"""More patience for each image; 5 milliseconds are usual."""


class MeteorProcess:
    """METEOR, started once for any number of scorings. Close it, or use it as a context manager.

    Raises:
        MetricError: it does not start.
    """

    def __init__(self) -> None:
        module = meteor()
        # Not a pipe: one that nobody reads would stop Java once it is full.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        options = ["-", "-", "-stdio", "-l", "en", "-norm"]
        try:
            self._process = subprocess.Popen(
                ["java", "-Xmx2G", *LOCALE, "-jar", module.METEOR_JAR, *options],
                cwd=Path(module.__file__).parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
        except OSError as error:
            self._said.close()
            raise MetricError(f"METEOR does not start: {error}") from error
        # The reference's own object without its constructor, which would start a process that nothing guards.
        self._meteor: Any = module.Meteor.__new__(module.Meteor)
        self._meteor.meteor_p, self._meteor.lock = self._process, Lock()

    def score(
        self, references: Mapping[str, list[str]], candidates: Mapping[str, list[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of the corpus, and of each image in the references' order.

        Raises:
            MetricError: METEOR ended, or answered too slowly; it is closed then.
        """
        patience = START_SECONDS + IMAGE_SECONDS * len(references)
        late = Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        watchdog = Timer(patience, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            corpus, images = self._meteor.compute_score(references, candidates)
            return float(corpus), [float(value) for value in images]
        except (OSError, ValueError) as error:  # a closed pipe, or a line that is no number
            self._process.kill()
            self._process.wait()
            self._said.seek(0)
            said = last_line(self._said.read().decode("utf-8", "replace")) or str(error)
            if late.is_set():
                said = f"no answer in {patience:.0f} s"
            self.close()
            raise MetricError(f"METEOR's Java program failed: {said}") from error
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """End the process. A second time is no error."""
        self._meteor.lock = Lock()  # held for ever after a failure, and taken once more when the object goes
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # of what the other end will not read any more
                    pipe.close()
        self._process.kill()
        self._process.wait()
        self._said.close()

    def __enter__(self) -> MeteorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

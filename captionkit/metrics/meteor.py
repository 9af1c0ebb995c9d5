"""METEOR by pycocoevalcap, with a time limit for its Java process.

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
"""Time limit for Java to load METEOR's paraphrases; usually it takes 5 to 20 seconds."""

IMAGE_SECONDS = 0.5
"""Additional time limit per image; usually it takes 5 milliseconds."""


class MeteorProcess:
    """METEOR's Java process, for any number of calls of `score`. Close it, or use it as a context manager.

    Raises:
        MetricError: it does not start.
    """

    def __init__(self) -> None:
        module = meteor()
        # Not a pipe: nobody reads it, and Java would block when it is full.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        options = ["-", "-", "-stdio", "-l", "en", "-norm"]
        try:
            self._process = subprocess.Popen(
                ["java", "-Xmx2G", *LOCALE, "-jar", module.METEOR_JAR, *options],
                cwd=Path(module.__file__).parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except OSError as error:
            self._stderr.close()
            raise MetricError(f"METEOR does not start: {error}") from error
        # pycocoevalcap's object without its constructor, which would start a process without a time limit.
        self._meteor: Any = module.Meteor.__new__(module.Meteor)
        self._meteor.meteor_p, self._meteor.lock = self._process, Lock()

    def score(
        self, references: Mapping[str, list[str]], candidates: Mapping[str, list[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of the corpus, and of each image in the references' order, from 0 to 1.

        Raises:
            MetricError: the process ended, or took too long; it is closed then.
        """
        limit = START_SECONDS + IMAGE_SECONDS * len(references)
        timed_out = Event()

        def give_up() -> None:
            timed_out.set()
            self._process.kill()

        watchdog = Timer(limit, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            corpus, images = self._meteor.compute_score(references, candidates)
            return float(corpus), [float(value) for value in images]
        except (OSError, ValueError) as error:  # a closed pipe, or a line that is not a number
            self._process.kill()
            self._process.wait()
            self._stderr.seek(0)
            reason = last_line(self._stderr.read().decode("utf-8", "replace")) or str(error)
            if timed_out.is_set():
                reason = f"no answer in {limit:.0f} s"
            self.close()
            raise MetricError(f"METEOR's Java program failed: {reason}") from error
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """End the process. May be called again."""
        self._meteor.lock = Lock()  # after a failure it stays locked, and __del__ locks it again
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # unsent data
                    pipe.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def __enter__(self) -> MeteorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

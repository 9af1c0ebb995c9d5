"""How captions are cut into words before they are compared: pycocoevalcap's way, and one for where Java is missing."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from captionkit.metrics.errors import MetricError
from captionkit.metrics.java import LOCALE, last_line
from captionkit.vocabulary import tokenize

Tokenizer = Literal["auto", "ptb", "words", "none"]
"""ptb: Stanford's PTB tokenizer, lower case, punctuation off, as every published figure has it. words: the captioner's
own words, for where Java is missing; figures differ a little from PTB's. none: captions that are cut already, at their
blanks. auto: ptb where Java is there, else words."""

# All that the tokenizer takes for the end of a line. pycocoevalcap replaces "\n" alone, and with any other of them
# gives each later caption the one before it.
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\u2028\u2029]")


def cut(captions: Sequence[str], tokenizer: Literal["ptb", "words", "none"]) -> list[str]:
    """Captions as words with single blanks between them, one line each.

    Raises:
        MetricError: Java's tokenizer, or pycocoevalcap that holds it, fails.
    """
    if tokenizer == "ptb":
        return ptb(captions)
    return [" ".join(tokenize(caption) if tokenizer == "words" else caption.split()) for caption in captions]


def ptb(captions: Sequence[str]) -> list[str]:
    """The same as pycocoevalcap's PTBTokenizer, of which this is the Java program, its options and its punctuation.

    Its own wrapper writes into the folder that it is installed in, which often is read-only, waits for Java for ever,
    and loses count after a caption with a line break of another kind than "\\n".

    Raises:
        MetricError: the tokenizer fails.
    """
    from captionkit.metrics.reference import ptbtokenizer

    if not captions:
        return []
    module = ptbtokenizer()
    jar = Path(module.__file__).parent / module.STANFORD_CORENLP_3_4_1_JAR
    # One text for all, as there: the tokenizer looks past the end of a line ("U.S." and what follows).
    text = "\n".join(_LINE_ENDS.sub(" ", caption) for caption in captions)
    handle, name = tempfile.mkstemp(prefix="captionkit-", suffix=".txt")
    try:
        with open(handle, "wb") as file:
            file.write(text.encode("utf-8", "replace"))  # lone surrogates have no bytes
        program = [*LOCALE, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        done = subprocess.run(
            ["java", *program, name], capture_output=True, timeout=120 + len(captions) / 200, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MetricError(f"the PTB tokenizer does not run: {error}") from error
    finally:
        os.remove(name)
    lines = done.stdout.decode("utf-8", "replace").split("\n")
    if done.returncode or len(lines) < len(captions) or any(lines[len(captions) :]):
        said = last_line(done.stderr.decode("utf-8", "replace"))
        raise MetricError(
            f"the PTB tokenizer made {len(lines)} lines of {len(captions)} (exit code {done.returncode}): {said}"
        )
    marks = frozenset(module.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in marks) for line in lines[: len(captions)]]

"""Tokenization of captions for the metrics: pycocoevalcap's PTB tokenizer, and a substitute without Java."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from captionkit.counting import counted
from captionkit.metrics.errors import MetricError
from captionkit.metrics.java import LOCALE, last_line
from captionkit.vocabulary import tokenize

Tokenizer = Literal["auto", "ptb", "words", "none"]
"""ptb: Stanford's PTB tokenizer, lower case, without punctuation, as for published figures. words: the captioner's own
tokenization, which needs no Java; scores differ a little from PTB's. none: captions that are tokenized already, split
at blanks. auto: ptb if Java works, else words."""

# All characters that the tokenizer treats as line ends. pycocoevalcap replaces only "\n"; after any other one, its
# captions are assigned to the wrong images.
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\u2028\u2029]")


def tokenize_captions(captions: Sequence[str], tokenizer: Literal["ptb", "words", "none"]) -> list[str]:
    """Captions as words joined by single blanks, each on one line.

    Raises:
        MetricError: pycocoevalcap is missing, or its tokenizer fails.
    """
    if tokenizer == "ptb":
        return ptb_tokenize(captions)
    return [" ".join(tokenize(caption) if tokenizer == "words" else caption.split()) for caption in captions]


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenize as pycocoevalcap's PTBTokenizer does, with its Java program, options and list of punctuation.

    Its Python wrapper is not used: it writes into its own folder, which is often read-only, has no time limit, and
    assigns captions to wrong images after a line break other than "\\n".

    Raises:
        MetricError: the tokenizer fails.
    """
    from captionkit.metrics.reference import ptbtokenizer

    if not captions:
        return []
    module = ptbtokenizer()
    jar = Path(module.__file__).parent / module.STANFORD_CORENLP_3_4_1_JAR
    # All captions in one text, as in pycocoevalcap: the tokenizer looks beyond the end of a line (after "U.S.", say).
    text = "\n".join(_LINE_ENDS.sub(" ", caption) for caption in captions)
    handle, name = tempfile.mkstemp(prefix="captionkit-", suffix=".txt")
    try:
        with open(handle, "wb") as file:
            file.write(text.encode("utf-8", "replace"))  # lone surrogates cannot be encoded
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
        reason = last_line(done.stderr.decode("utf-8", "replace"))
        what = f"{counted(len(lines), 'line')} for {counted(len(captions), 'caption')}"
        raise MetricError(f"the PTB tokenizer returned {what} (exit code {done.returncode}): {reason}")
    marks = frozenset(module.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in marks) for line in lines[: len(captions)]]

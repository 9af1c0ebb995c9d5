"""pycocoevalcap, the reference implementation. Imported when first used, since it is an optional dependency."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from captionkit.metrics.errors import MetricError


def _module(name: str) -> Any:
    try:
        return import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise MetricError(f"pycocoevalcap is missing ({error}): pip install 'captionkit[evaluate]'") from error


def ptbtokenizer() -> Any:
    """The module of its PTBTokenizer."""
    return _module("tokenizer.ptbtokenizer")


def bleu() -> Any:
    """Its scorer of BLEU-1 to 4."""
    return _module("bleu.bleu").Bleu(4)


def rouge() -> Any:
    """Its scorer of ROUGE-L."""
    return _module("rouge.rouge").Rouge()


def cider() -> Any:
    """Its scorer of CIDEr-D, which it calls CIDEr."""
    return _module("cider.cider").Cider()


def meteor() -> Any:
    """The module of its METEOR."""
    return _module("meteor.meteor")


def spice() -> Any:
    """The module of its SPICE."""
    return _module("spice.spice")

"""Metrics of captions: the usual ones as papers report them, a fast CIDEr-D for rewards, and vocabulary statistics.

score({"a.jpg": "a dog runs"}, {"a.jpg": ["a dog is running", "the dog runs"]}).corpus["BLEU-1"]
"""

from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.metrics.errors import MetricError
from captionkit.metrics.scores import METRICS, Scorer, Scores, score
from captionkit.metrics.tokens import Tokenizer
from captionkit.metrics.usage import Usage, caption_set, measure_usage

__all__ = [
    "METRICS",
    "CiderD",
    "DocumentFrequencies",
    "MetricError",
    "Scorer",
    "Scores",
    "Tokenizer",
    "Usage",
    "caption_set",
    "measure_usage",
    "score",
]

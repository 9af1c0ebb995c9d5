"""What captions are worth: the field's measures as it reports them, CIDEr-D as a reward, and how words are used.

score({"a.jpg": "a dog runs"}, {"a.jpg": ["a dog is running", "the dog runs"]}).corpus["BLEU-1"]
"""

from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.metrics.errors import MetricError
from captionkit.metrics.scores import METRICS, Scorer, Scores, score
from captionkit.metrics.tokens import Tokenizer
from captionkit.metrics.usage import Usage, known_captions, measure_usage

__all__ = [
    "METRICS",
    "CiderD",
    "DocumentFrequencies",
    "MetricError",
    "Scorer",
    "Scores",
    "Tokenizer",
    "Usage",
    "known_captions",
    "measure_usage",
    "score",
]

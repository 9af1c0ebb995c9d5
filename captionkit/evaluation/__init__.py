"""Evaluation of a captioner or a caption table against reference captions, as a score card and a page.

    from captionkit.evaluation import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions, evaluate

    evaluate(EvaluateOptions(
        JudgedCorpusOptions(("flickr8k/Flickr8k.token.txt",), images=("flickr8k/Images",)),
        ResultOptions("judged"),
        CandidateOptions(model="s3://models/show-tell"),
    ))

The names below are imported when they are first used, so that `--help` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captionkit.evaluation.card import ScoreCard
    from captionkit.evaluation.job import Evaluation, evaluate
    from captionkit.evaluation.options import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions

__all__ = [
    "CandidateOptions",
    "EvaluateOptions",
    "Evaluation",
    "JudgedCorpusOptions",
    "ResultOptions",
    "ScoreCard",
    "evaluate",
]

_MODULES = {"Evaluation": "job", "ScoreCard": "card", "evaluate": "job"}
"""Modules of names that are not in `options`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'options')}"), name)

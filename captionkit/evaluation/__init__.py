"""Evaluation of a captioner or a caption table against reference captions, as a score card and a page.

    from captionkit.evaluation import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions, evaluate

    evaluate(EvaluateOptions(
        JudgedCorpusOptions(("flickr8k/Flickr8k.token.txt",), images=("flickr8k/Images",)),
        ResultOptions("judged"),
        CandidateOptions(model=("s3://models/show-tell",)),
    ))

The names below are imported when they are first used, so that `--help` needs no torch.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

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

__getattr__ = lazy_names(
    __name__,
    {
        "CandidateOptions": "options",
        "EvaluateOptions": "options",
        "Evaluation": "job",
        "JudgedCorpusOptions": "options",
        "ResultOptions": "options",
        "ScoreCard": "card",
        "evaluate": "job",
    },
)

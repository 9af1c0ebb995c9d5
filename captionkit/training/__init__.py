"""Training of captioners, on Ray Train.

    from captionkit.training import CorpusOptions, ResultOptions, TrainJob, TrainOptions

    TrainJob(TrainOptions(CorpusOptions(("captions.jsonl",)), ResultOptions("trained"))).run()

The names below are imported when they are first used, so that `--help` needs neither torch nor Ray.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.training.checkpoints import CheckpointError
    from captionkit.training.job import TrainJob
    from captionkit.training.options import (
        CorpusOptions,
        FinetuneOptions,
        NetworkOptions,
        ResultOptions,
        ScstOptions,
        StepOptions,
        TrainOptions,
        ValidateOptions,
        WorkerOptions,
    )

__all__ = [
    "CheckpointError",
    "CorpusOptions",
    "FinetuneOptions",
    "NetworkOptions",
    "ResultOptions",
    "ScstOptions",
    "StepOptions",
    "TrainJob",
    "TrainOptions",
    "ValidateOptions",
    "WorkerOptions",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CheckpointError": "checkpoints",
        "CorpusOptions": "options",
        "FinetuneOptions": "options",
        "NetworkOptions": "options",
        "ResultOptions": "options",
        "ScstOptions": "options",
        "StepOptions": "options",
        "TrainJob": "job",
        "TrainOptions": "options",
        "ValidateOptions": "options",
        "WorkerOptions": "options",
    },
)

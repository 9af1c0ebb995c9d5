"""Training of captioners, on Ray Train.

    from captionkit.training import CorpusOptions, ResultOptions, TrainJob, TrainOptions

    TrainJob(TrainOptions(CorpusOptions(("captions.jsonl",)), ResultOptions("trained"))).run()

The names below are imported when they are first used, so that `--help` needs neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING

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

_MODULES = {"CheckpointError": "checkpoints", "TrainJob": "job"}
"""Modules of names that are not in `options`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'options')}"), name)

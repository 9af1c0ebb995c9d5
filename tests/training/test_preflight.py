"""What is refused before a training starts."""

import json
from dataclasses import replace
from typing import Any

import pytest

from captionkit.errors import UsageError
from captionkit.model.decoders import DECODERS
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
from captionkit.training.preflight import ONE_STEP_DECODERS, check_options, check_resumable, fixed_options

GOOD = TrainOptions(corpus=CorpusOptions(corpus=("captions.jsonl",)), result=ResultOptions("out"))


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"steps": StepOptions(epochs=0)}, "nothing to do"),
        ({"steps": StepOptions(batch_size=0)}, "--batch-size, .*: at least 1"),
        ({"steps": StepOptions(batch_size=2), "cluster": WorkerOptions(workers=3)}, "at least one row for each"),
        ({"steps": StepOptions(scheduled_sampling=1.5)}, "--scheduled-sampling: a probability"),
        ({"steps": StepOptions(label_smoothing=1.0)}, "--label-smoothing: from 0 to below 1"),
        ({"steps": StepOptions(average=1.0)}, "--average: from 0 to below 1"),
        ({"cluster": WorkerOptions(workers=0)}, "--workers 0: at least 1"),
        ({"corpus": replace(GOOD.corpus, min_count=0)}, "--max-words, --min-count: at least 1"),
        ({"corpus": replace(GOOD.corpus, teacher_captions=0)}, "--teacher-captions: at least 1"),
        ({"finetune": FinetuneOptions(crop=0.0)}, "--crop: above 0, at most 1"),
        ({"validate": ValidateOptions(keep=0)}, "--keep, --patience: at least 1"),
        ({"scst": ScstOptions(scst_samples=0)}, "--scst-samples: at least 1"),
        (
            {"network": NetworkOptions(decoder="one_shot"), "scst": ScstOptions(scst_epochs=1)},
            "one_shot predicts all words at once",
        ),
        ({"corpus": replace(GOOD.corpus, new_words=True)}, "--new-words adds words to the captioner of --init"),
        (
            {"corpus": replace(GOOD.corpus, rehearsal_images=("photos",))},
            "--rehearsal-images are the images of --rehearsal",
        ),
        ({"corpus": replace(GOOD.corpus, rehearsal_ratio=0.0)}, "--rehearsal-ratio must be above 0"),
        ({"network": NetworkOptions(init="bundle", encoder="vgg16")}, "--init brings its own encoder"),
    ],
)
def test_options_out_of_range(parts: dict[str, Any], complaint: str) -> None:
    check_options(GOOD)
    with pytest.raises(UsageError, match=complaint):
        TrainJob(replace(GOOD, **parts))


def test_decoders_that_predict_all_words_at_once_are_known() -> None:
    assert set(ONE_STEP_DECODERS) == {name for name, family in DECODERS.items() if family.predicts_padding}


def test_a_folder_takes_the_same_training_only() -> None:
    record = json.loads(json.dumps({"asked": fixed_options(GOOD)}))
    check_resumable(None, fixed_options(GOOD), "out")
    check_resumable(record, fixed_options(replace(GOOD, cluster=WorkerOptions(workers=4))), "out")
    with pytest.raises(UsageError, match=r"out holds a training with other options \(epochs: .*, now 77\)"):
        check_resumable(record, fixed_options(replace(GOOD, steps=StepOptions(epochs=77))), "out")


def test_a_finished_training_says_how_to_train_for_longer() -> None:
    done = {"status": "succeeded", "asked": fixed_options(replace(GOOD, steps=StepOptions(epochs=2)))}
    with pytest.raises(UsageError, match="--init out/bundle --epochs 1 and another --output"):
        check_resumable(done, fixed_options(replace(GOOD, steps=StepOptions(epochs=3))), "out")
    with pytest.raises(UsageError) as shorter:
        check_resumable(done, fixed_options(replace(GOOD, steps=StepOptions(epochs=1))), "out")
    assert "--init" not in str(shorter.value)

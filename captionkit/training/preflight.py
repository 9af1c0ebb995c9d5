"""What a training refuses before it begins."""

import json
from dataclasses import asdict
from typing import Any

from captionkit.model.decoders import DECODERS
from captionkit.storage import UsageError
from captionkit.training.options import NetworkOptions, TrainOptions
from captionkit.training.stages import stages

FREE = ("cluster", "result", "config", "storage")
"""Options that may change from one start of a training to the next."""
NOT_DRAWN = "--scst-epochs: {} says all words at once, which cannot be trained by drawing them"


def check(options: TrainOptions) -> None:
    """Raise UsageError for what the types cannot say of the options."""
    network, steps, scst = options.network, options.steps, options.scst
    tune, validate = options.finetune, options.validate
    for fine, complaint in (
        (
            bool(stages(options)) or options.result.neighbours,
            "--epochs 0, no other stage and no --neighbours: nothing to do",
        ),
        (min(steps.batch_size, steps.accumulate, scst.scst_batch, tune.finetune_batch) >= 1, "batches: at least 1"),
        (options.cluster.workers >= 1, f"--workers {options.cluster.workers}: at least 1"),
        (
            all(stage.batch_size >= options.cluster.workers for stage in stages(options)),
            "--batch-size, --finetune-batch, --scst-batch: at least one row for each of --workers",
        ),
        (scst.scst_samples >= 1, "--scst-samples: at least 1"),
        (0 < tune.crop <= 1, "--crop: above 0, at most 1"),
        (0 <= steps.scheduled_sampling <= 1, "--scheduled-sampling: a probability from 0 to 1"),
        (0 <= steps.label_smoothing < 1, "--label-smoothing: from 0 to below 1"),
        (0 <= steps.average < 1, "--average: from 0 to below 1"),
        (options.corpus.max_words >= 1 and options.corpus.min_count >= 1, "--max-words, --min-count: at least 1"),
        (options.corpus.teacher_captions >= 1, "--teacher-captions: at least 1"),
        (validate.keep >= 1 and validate.patience >= 1, "--keep, --patience: at least 1"),
        (
            not (scst.scst_epochs and not network.init and DECODERS[network.decoder].predicts_padding),
            NOT_DRAWN.format(network.decoder),
        ),
        (
            not network.init or network == NetworkOptions(init=network.init),
            "--init brings its own encoder and decoder: leave out --encoder, --decoder and what belongs to them",
        ),
    ):
        if not fine:
            raise UsageError(complaint)


def lasting(options: TrainOptions) -> dict[str, Any]:
    """The options that may not change from one start of a training to the next, as JSON has them."""
    asked = {name: value for name, value in asdict(options).items() if name not in FREE}
    whole: dict[str, Any] = json.loads(json.dumps(asked))
    return whole


def check_same(record: dict[str, Any] | None, asked: dict[str, Any], output: str) -> None:
    """Raise UsageError where an output folder's record is of a training with other options; `asked` as of `lasting`."""
    if record is None or record.get("asked") == asked:
        return
    was = record.get("asked", {})
    changed = [
        f"{name}: {part_was.get(name)!r}, now {value!r}"
        for group, part in asked.items()
        for name, value in (part.items() if isinstance(part, dict) else {group: part}.items())
        if (part_was := was.get(group, {}) if isinstance(part, dict) else was).get(name) != value
    ]
    before, now = (part.get("steps", {}).get("epochs", 0) for part in (was, asked))
    longer = ""
    if record.get("status") == "succeeded" and now > before:
        longer = (
            f" To train its captioner for longer, start from it: --init {output}/bundle --epochs {now - before:g} and "
            "another --output, without --encoder, --decoder and what belongs to them."
        )
    raise UsageError(
        f"{output} holds a training with other options ({'; '.join(changed) or 'of another captionkit'}). "
        f"Give another --output, or the same options to go on with it.{longer}"
    )

"""What is checked before a training starts. Imports no torch, so that errors show at once."""

import json
from dataclasses import asdict
from typing import Any

from captionkit.errors import UsageError
from captionkit.inputs.named import require
from captionkit.model.bundle_files import check_bundle
from captionkit.storage import Storage
from captionkit.training.options import NAMED_WEIGHTS, NetworkOptions, TrainOptions

CHANGEABLE_GROUPS = ("cluster", "result", "config", "recipe", "data", "storage")
"""Groups of options that may change when a training is resumed."""

ONE_STEP_DECODERS = ("one_shot",)
"""Decoders that predict all words at once: those with `predicts_padding`, whose classes would import torch."""

NO_SAMPLING = "--scst-epochs: {} predicts all words at once, so captions cannot be sampled word by word"


def check_options(options: TrainOptions) -> None:
    """Check what types cannot express.

    Raises:
        UsageError: the first option out of range, or options that exclude each other.
    """
    network, steps, scst = options.network, options.steps, options.scst
    finetune, validate, workers = options.finetune, options.validate, options.cluster.workers
    stages = (
        (steps.epochs, steps.batch_size),
        (finetune.finetune_epochs, finetune.finetune_batch),
        (scst.scst_epochs, scst.scst_batch),
    )
    batch_sizes = [batch_size for epochs, batch_size in stages if epochs > 0]
    _require(
        bool(batch_sizes) or options.result.neighbours, "--epochs 0, no other stage and no --neighbours: nothing to do"
    )
    _require(
        min(steps.batch_size, steps.accumulate, scst.scst_batch, finetune.finetune_batch) >= 1,
        "--batch-size, --accumulate, --scst-batch, --finetune-batch: at least 1",
    )
    _require(workers >= 1, f"--workers {workers}: at least 1")
    _require(
        all(batch_size >= workers for batch_size in batch_sizes),
        "--batch-size, --finetune-batch, --scst-batch: at least one row for each of --workers",
    )
    _require(scst.scst_samples >= 1, "--scst-samples: at least 1")
    _require(0 < finetune.crop <= 1, "--crop: above 0, at most 1")
    _require(0 <= steps.scheduled_sampling <= 1, "--scheduled-sampling: a probability from 0 to 1")
    _require(0 <= steps.label_smoothing < 1, "--label-smoothing: from 0 to below 1")
    _require(0 <= steps.average < 1, "--average: from 0 to below 1")
    _require(options.corpus.max_words >= 1 and options.corpus.min_count >= 1, "--max-words, --min-count: at least 1")
    _require(options.corpus.teacher_captions >= 1, "--teacher-captions: at least 1")
    _require(validate.keep >= 1 and validate.patience >= 1, "--keep, --patience: at least 1")
    _require(
        not (scst.scst_epochs and not network.init and network.decoder in ONE_STEP_DECODERS),
        NO_SAMPLING.format(network.decoder),
    )
    _require(bool(network.init) or not options.corpus.new_words, "--new-words adds words to the captioner of --init")
    _require(
        bool(options.corpus.rehearsal) or not options.corpus.rehearsal_images,
        "--rehearsal-images are the images of --rehearsal: name its captions too",
    )
    _require(options.corpus.rehearsal_ratio > 0, "--rehearsal-ratio must be above 0")
    _require(
        not network.init or network == NetworkOptions(init=network.init),
        "--init brings its own encoder and decoder: leave out --encoder, --decoder and the options that belong to them",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def check_inputs(options: TrainOptions, storage: Storage) -> None:
    """Check that the files and folders that the options name exist.

    Raises:
        UsageError: one does not.
        StorageError: storage that cannot be read.
    """
    corpus, weights = options.corpus, options.network.encoder_weights
    for option, addresses in (
        ("--corpus", corpus.corpus),
        ("--images", corpus.images),
        ("--train-list", (corpus.train_list,)),
        ("--dev-list", (corpus.dev_list,)),
        ("--rehearsal", corpus.rehearsal),
        ("--rehearsal-images", corpus.rehearsal_images),
        ("--teacher", corpus.teacher),
        ("--glove", (corpus.glove,)),
        ("--encoder-weights", () if weights in NAMED_WEIGHTS else (weights,)),
    ):
        require(option, filter(None, addresses), storage)
    check_bundle(options.network.init, storage)


def fixed_options(options: TrainOptions) -> dict[str, Any]:
    """The options that may not change when a training is resumed, as JSON stores them."""
    fixed = {name: value for name, value in asdict(options).items() if name not in CHANGEABLE_GROUPS}
    stored: dict[str, Any] = json.loads(json.dumps(fixed))
    return stored


def check_resumable(record: dict[str, Any] | None, fixed: dict[str, Any], output: str) -> None:
    """Check that a training can use an output folder.

    Args:
        record: content of the folder's training.json; None if it has none.
        fixed: `fixed_options` of the training.
        output: address of the folder.

    Raises:
        UsageError: the folder holds a training with other options.
    """
    if record is None or record.get("asked") == fixed:
        return
    before = record.get("asked", {})
    changed = [
        f"{name}: {group_before.get(name)!r}, now {value!r}"
        for group, options in fixed.items()
        for name, value in (options.items() if isinstance(options, dict) else {group: options}.items())
        if (group_before := before.get(group, {}) if isinstance(options, dict) else before).get(name) != value
    ]
    epochs_before, epochs = (options.get("steps", {}).get("epochs", 0) for options in (before, fixed))
    longer = ""
    if record.get("status") == "succeeded" and epochs > epochs_before:
        longer = (
            f" To train its captioner for longer, start from it: --init {output}/bundle --epochs "
            f"{epochs - epochs_before:g} and another --output, without --encoder, --decoder and the options that "
            "belong to them."
        )
    raise UsageError(
        f"{output} holds a training with other options ({'; '.join(changed) or 'by another version of captionkit'}). "
        f"Give another --output, or the same options to resume it.{longer}"
    )

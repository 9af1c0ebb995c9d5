"""One stage on Ray Train: start the workers, wait, take the best checkpoint."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from captionkit.pipeline.cluster import Connection, require_gpus
from captionkit.storage import Storage
from captionkit.training.checkpoints import HISTORY, History, load_average
from captionkit.training.curves import CurveCallback, Points
from captionkit.training.losses import Objective
from captionkit.training.networks import Networks
from captionkit.training.options import WorkerOptions
from captionkit.training.stages import WorkerTask
from captionkit.training.worker import train_worker

LOOK_SECONDS = 1.0
"""How long the main thread waits for the training at a time."""


@dataclass(frozen=True)
class StageResult:
    """What a stage has reached."""

    cider: float
    """Best dev CIDEr-D × 100."""
    best_step: int
    """Step of the checkpoint with this CIDEr-D."""
    steps: int
    """Steps of the whole stage."""
    points: Points
    """Its learning curve."""


def train_stage(
    task: WorkerTask,
    networks: Networks,
    output: str,
    storage: Storage,
    *,
    connection: Connection,
    previous: Mapping[str, Points],
) -> StageResult:
    """Train one stage, or resume it from its last checkpoint, and load the best weights into `networks`.

    Args:
        output: folder of the training; checkpoints and curves go there.
        connection: how this process came to Ray.
        previous: learning curves of the stages before, by stage.

    Raises:
        UsageError: GPUs that this machine does not have.
        ray.train.TrainingFailedError: workers failed more often than `max_failures`.
    """
    options, stage = task.options, task.stage
    scaling = _scaling(options.cluster, connection)
    path, filesystem = storage.arrow(storage.join(output, "checkpoints"))
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": ray.put(task)},
        scaling_config=scaling,
        run_config=RunConfig(
            name=stage.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=options.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=options.validate.keep, checkpoint_score_attribute="cider"),
            callbacks=[CurveCallback(output, options.storage, stage.name, dict(previous), options.result.track)],
        ),
    )
    result = _fit(trainer)
    best, metrics = max(result.best_checkpoints, key=lambda pair: pair[1]["cider"])
    with best.as_directory() as folder:
        load_average(Path(folder), Objective(networks.decoder, None if task.encoder is None else networks.encoder))
    with result.checkpoint.as_directory() as folder:
        history = History(**json.loads((Path(folder) / HISTORY).read_text(encoding="utf-8")))
    return StageResult(metrics["cider"], metrics["step"], history.step, history.points)


def _fit(trainer: TorchTrainer) -> Result:
    """`fit`, which a signal can end.

    While the main thread waits in `ray.get`, what a signal's handler raises does not end the waiting, but for
    KeyboardInterrupt and SystemExit (`findings/ray-get-drops-exceptions-of-signals.sh`). So another thread waits there,
    and the main one where Python runs.
    """
    if threading.current_thread() is not threading.main_thread():
        return trainer.fit()
    answer: Future[Result] = Future()

    def fit() -> None:
        try:
            answer.set_result(trainer.fit())
        except BaseException as err:
            answer.set_exception(err)

    # A daemon, as nobody waits for it once a signal has come: Ray is shut down then, or this process ends.
    threading.Thread(target=fit, name="fit", daemon=True).start()
    while not answer.done():
        wait([answer], timeout=LOOK_SECONDS)
    return answer.result()


def _scaling(options: WorkerOptions, connection: Connection) -> ScalingConfig:
    """The workers' number and resources."""
    cpus, gpus = (ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU"))
    each = float(gpus > 0) if options.gpus_per_worker is None else options.gpus_per_worker
    require_gpus(each, f"--gpus-per-worker {each:g}", connection, options.workers)
    resources = {"CPU": min(1.0, cpus / options.workers), **({"GPU": each} if each else {})}
    return ScalingConfig(num_workers=options.workers, use_gpu=bool(each), resources_per_worker=resources)

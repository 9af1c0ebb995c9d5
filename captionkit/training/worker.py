"""A training worker: Ray Train starts it, DistributedDataParallel (DDP) connects it to the others.

Any number of workers processes the same batches and minimises the same loss, each on its share of every batch. All
randomness follows from the seed and the step, so a worker that resumes from a checkpoint continues the same training.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captionkit.counting import counted
from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.model.decoders import Decoder
from captionkit.model.device import fast_bfloat16
from captionkit.model.encoders import Encoder
from captionkit.storage import Storage
from captionkit.training.augment import augment
from captionkit.training.batches import seed_step, worker_share
from captionkit.training.checkpoints import History, resume, write_checkpoint
from captionkit.training.feature_cache import FeatureCache, write_feature_cache
from captionkit.training.features import read_features
from captionkit.training.losses import BatchTotals, Objective
from captionkit.training.optim import adamw, averaged, rate_at
from captionkit.training.scst import advantages, greedy_captions, rewards, sample_captions
from captionkit.training.stages import WorkerTask
from captionkit.training.validator import Validator, references
from captionkit.vocabulary import EOS, PAD

STATISTICS_OF = 1000
"""Images from which the mean and variance of each feature are estimated."""

LOGS_PER_VALIDATION = 10
"""Points of the loss curve between two validations."""


def train_worker(config: dict[str, Any]) -> None:
    """The training loop of one worker. `config["task"]` is a reference to its `WorkerTask`."""
    # With each checkpoint Ray Train prints the whole learning curve, by a logger that is named after its file.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray.train") or "ray/train/" in Path(name).as_posix():
            logging.getLogger(name).setLevel(logging.WARNING)
    task: WorkerTask = ray.get(config["task"])
    Worker(task).run()


class Worker:
    """One worker of a stage: its copy of the networks, the optimizer, and its share of the data."""

    def __init__(self, task: WorkerTask) -> None:
        context = ray.train.get_context()
        self.task, self.stage, self.options = task, task.stage, task.options
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(task.threads)
        folder = Path(tempfile.gettempdir()) / "captionkit-features" / task.cache
        _fill_cache(folder, task, context.get_local_rank(), self.world)
        self.train_features = FeatureCache(folder, task.train.images)
        self.dev_features = FeatureCache(folder, task.dev.images)
        steps = self.options.steps
        encoder = self._make_encoder()
        # The doubly stochastic loss belongs to teacher forcing only.
        penalty = steps.attention_penalty if self.stage.name != "scst" else 0.0
        objective = Objective(self._make_decoder(), encoder, steps.label_smoothing, penalty)
        self.objective = objective.to(self.device)
        self.decoder = self.objective.decoder
        self.average = averaged(self.objective, steps.average)
        self.model: nn.Module = self.objective
        if self.world > 1:
            self.model = DistributedDataParallel(
                self.objective, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.optimizer = adamw(
            [(self.decoder, self.stage.rate), *([(encoder, self.stage.encoder_rate)] if encoder else [])],
            steps.weight_decay,
        )
        self.order = self.stage.order(task.train, steps.seed)
        self.steps = max(1, round(self.stage.epochs * self.order.steps_per_epoch))
        every = self.options.validate.validate_every * self.order.steps_per_epoch
        self.validate_every = max(1, min(self.steps, round(every)))
        self.log_every = max(1, self.validate_every // LOGS_PER_VALIDATION)
        self.validator = Validator(task.dev, task.search, self.rank, self.world)
        self.log = _StepLog(self.stage.name, self.steps, self.options.cluster.progress_seconds, self.rank == 0)
        self.bfloat16 = steps.dtype == "bfloat16" or (steps.dtype == "auto" and fast_bfloat16(self.device))
        if self.stage.name == "scst":
            ids = [[[*caption, EOS] for caption in captions] for captions in references(task.train)]
            self.cider = CiderD(ids, DocumentFrequencies.of(ids))

    def _make_decoder(self) -> Decoder:
        """The decoder with the weights that the stage starts from; a new one gets the features' statistics too."""
        decoder = self.task.decoder.build()
        decoder.load_state_dict(dict(self.task.weights))
        if self.stage.name == "captions" and self.options.network.init is None:
            count = len(self.task.train.images)
            images = np.unique(np.linspace(0, count - 1, STATISTICS_OF, dtype=np.int64))
            decoder.set_feature_statistics(self.train_features.gather(images, torch.device("cpu")))
        return decoder

    def _make_encoder(self) -> Encoder | None:
        if self.task.encoder is None:
            return None
        encoder = self.task.encoder.build()
        if layers := self.options.finetune.finetune_layers:
            encoder.train_only(layers)
        return encoder

    def run(self) -> None:
        """Train from the last checkpoint, if there is one, to the end."""
        history = self._resume()
        self.log.restart(history.step)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        total_reward = 0.0
        for step in range(history.step, self.steps):
            if self._out_of_patience(history):
                break
            seed_step(self.options.steps.seed, step, self.rank)
            self._set_rates(step)
            loss, reward = self._step(step)
            total += loss
            total_reward += reward
            done = step + 1
            if done % self.log_every == 0 or done == self.steps:
                count = (done - 1) % self.log_every + 1
                history.add(done, done / self.order.steps_per_epoch, self._mean(total, total_reward, count))
                total.zero_()
                total_reward = 0.0
                self.log.point(history.points[-1])
            if done % self.validate_every == 0 or done == self.steps:
                self._validate(history, done)
                self.log.restart(done)

    def _resume(self) -> History:
        """The learning curve so far: the last checkpoint's, which is loaded, or that of a new stage."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                history = resume(Path(folder), self.objective, self.average, self.optimizer, self.device)
            self.log.line(
                f"resumes from the checkpoint at step {history.step:,} of {self.steps:,}"
                if history.step < self.steps
                else f"already finished, after {counted(self.steps, 'step')}"
            )
            return history
        history = History()
        if self.stage.name != "captions":
            self._validate(history, 0)  # the result of the stage before: kept unless a later checkpoint is better
        return history

    def _out_of_patience(self, history: History) -> bool:
        """Whether none of the last `patience` validations was better than the best before them."""
        validated = [point["cider"] for point in history.points if "cider" in point]
        patience = self.options.validate.patience
        return len(validated) > patience and max(validated[-patience:]) <= max(validated[:-patience])

    def _set_rates(self, step: int) -> None:
        steps = self.options.steps
        schedule = "constant" if self.stage.name == "scst" else steps.schedule
        factor = rate_at(step, self.steps, steps.warmup, schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * factor

    def _step(self, step: int) -> tuple[Tensor, float]:
        """One optimizer step. Returns this worker's share of the loss and of the mean reward (0 without SCST)."""
        batch = self.order.batch(step)
        rows, weight = worker_share(batch, self.rank, self.world), 1.0
        if not len(rows):  # an epoch's last batches may have a row less; DDP wants a gradient of every worker
            rows, weight = batch[:1], 0.0
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        if self.stage.name == "scst":
            loss, reward = self._scst_loss(rows, len(batch), weight)
            self._backward(loss)
        else:
            loss, reward = torch.zeros((), device=self.device), 0.0
            parts = np.array_split(rows, min(self.stage.accumulate, len(rows)))
            totals = self._totals(batch)
            for number, part in enumerate(parts, 1):
                # DDP sums gradients over the workers once per step, with the last part.
                wait = isinstance(self.model, DistributedDataParallel) and number < len(parts)
                with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
                    part_loss = weight * self._caption_loss(part, totals, step)
                    self._backward(part_loss)
                loss += part_loss.detach()
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.options.steps.clip)
        self.optimizer.step()
        self.average.update_parameters(self.objective)
        return loss.detach(), reward

    def _backward(self, loss: Tensor) -> None:
        # DDP averages gradients over the workers, but the workers' losses are shares of a sum.
        (loss * self.world).backward()

    def _totals(self, batch: NDArray[np.int64]) -> BatchTotals:
        captions = self.task.train.of_images(batch)[0] if self.stage.by_image else batch
        length = self._padded_length
        tokens = len(captions) * length if length else int(self.task.train.lengths(captions).sum())
        return BatchTotals(len(captions), tokens)

    @property
    def _padded_length(self) -> int:
        """Tokens that a decoder which predicts padding fills in every batch; 0 for other decoders."""
        return self.options.corpus.max_words + 1 if self.decoder.predicts_padding else 0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _caption_loss(self, rows: NDArray[np.int64], totals: BatchTotals, step: int) -> Tensor:
        train = self.task.train
        captions, image_of = train.of_images(rows) if self.stage.by_image else (rows, None)
        tokens = train.padded(captions)
        if self._padded_length:
            tokens = nn.functional.pad(tokens, (0, self._padded_length + 1 - tokens.shape[1]), value=PAD)
        images = train.image[captions] if image_of is None else rows
        inputs = self._inputs(self.train_features, images, augmented=True)
        image = None if image_of is None else torch.from_numpy(image_of).to(self.device)
        scheduled = self.options.steps.scheduled_sampling * step / self.steps
        with self._autocast():
            loss: Tensor = self.model(inputs, tokens.to(self.device), totals, scheduled, image=image)
        return loss

    def _scst_loss(self, images: NDArray[np.int64], total: int, weight: float) -> tuple[Tensor, float]:
        options, longest = self.options.scst, self.options.corpus.max_words
        features = self._inputs(self.train_features, images)
        self.objective.eval()
        with self._autocast():
            sampled = sample_captions(self.decoder, features, options.scst_samples, longest)
            baseline = None
            if options.scst_samples == 1:
                baseline = rewards(self.cider, images.tolist(), greedy_captions(self.decoder, features, longest))
        sample_rewards = rewards(self.cider, images.tolist(), sampled).view(len(images), -1)
        advantage = advantages(sample_rewards, baseline).flatten()
        self.model.train()
        # Tokens of the whole batch: a worker does not know what the others have sampled.
        tokens = self._sum(torch.tensor(weight * float((sampled[:, 1:] != PAD).sum()), device=self.device))
        totals = BatchTotals(total * options.scst_samples, max(1, round(float(tokens))))
        with self._autocast():
            loss: Tensor = self.model(
                features.repeat_interleave(options.scst_samples, dim=0), sampled, totals, 0.0, advantage
            )
        return weight * loss, weight * float(sample_rewards.sum()) / (total * options.scst_samples)

    def _inputs(self, cache: FeatureCache, images: NDArray[np.int64], augmented: bool = False) -> Tensor:
        """Features (n, …) as fp32, or pixels (n, S, S, 3) uint8 if the encoder is trained too."""
        values = cache.gather(images, self.device)
        if self.task.encoder is None:
            return values.float()
        if augmented:
            return augment(values, self.options.finetune.crop, self.options.finetune.mirror)
        return values

    def _validate(self, history: History, step: int) -> None:
        """Measure dev CIDEr-D of the averaged weights, and report a checkpoint to Ray Train."""
        objective = self.average.module.eval()
        assert isinstance(objective, Objective)

        def features(images: NDArray[np.int64]) -> Tensor:
            inputs = self._inputs(self.dev_features, images)
            with torch.no_grad(), self._autocast():
                return inputs if objective.encoder is None else objective.encoder(inputs)

        with self._autocast():
            cider, captions = self.validator.score(objective.decoder, features)
        history.add(step, step / self.order.steps_per_epoch, {"cider": cider})
        self.log.point(history.points[-1], always=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                write_checkpoint(Path(folder), self.objective, self.average, self.optimizer, history)
                self._write_captions(Path(folder), captions)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"cider": cider, "step": step, "points": history.points}, checkpoint=checkpoint)

    def _write_captions(self, folder: Path, captions: list[list[int]]) -> None:
        lines = [
            f"{image}\t{self.task.vocabulary.decode(ids)}"
            for image, ids in zip(self.task.dev.images, captions, strict=True)
        ]
        (folder / "dev_captions.tsv").write_text("\n".join(lines), encoding="utf-8")

    def _mean(self, loss: Tensor, reward: float, count: int) -> dict[str, float]:
        """Means over `count` steps, of the whole batches.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        sums = self._sum(torch.stack([loss, torch.tensor(reward, dtype=torch.float64, device=self.device)])) / count
        figures = {"loss": float(sums[0]), "rate": float(self.optimizer.param_groups[0]["lr"])}
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(
                "the loss is not a finite number; try a lower --learning-rate, a smaller --clip or --dtype float32"
            )
        return figures | ({"reward": float(sums[1])} if self.stage.name == "scst" else {})

    def _sum(self, value: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.world > 1:
            torch.distributed.all_reduce(value)
        return value


class _StepLog:
    """The progress lines of a stage, on standard error.

    Args:
        seconds: shortest time between two lines of loss.
        enabled: whether this worker writes any; one of them does.
    """

    def __init__(self, stage: str, steps: int, seconds: float, enabled: bool) -> None:
        self._stage, self._steps, self._seconds, self._enabled = stage, steps, seconds, enabled
        self._last_line = self._start = time.monotonic()
        self._start_step = 0

    def restart(self, step: int) -> None:
        """Measure the speed from this step on."""
        self._start, self._start_step = time.monotonic(), step

    def point(self, point: dict[str, float], always: bool = False) -> None:
        """Write a line for a point of the learning curve, unless the last line is too recent."""
        now = time.monotonic()
        if not (always or now - self._last_line >= self._seconds):
            return
        self._last_line = now
        speed = (point["step"] - self._start_step) / max(1e-9, now - self._start)
        left = f", {(self._steps - point['step']) / speed / 60:.1f} min left" if speed else ""
        figures = ", ".join(f"{name} {point[name]:.3f}" for name in ("loss", "reward", "cider") if name in point)
        self.line(f"step {point['step']:,} of {self._steps:,}, {figures}, {speed:.2f} steps/s{left}")

    def line(self, text: str) -> None:
        """Write a line."""
        if self._enabled:
            # Not print(): Ray Train takes its output for its own log and shows it twice.
            sys.stderr.write(f"{self._stage}: {text}\n")


def _fill_cache(folder: Path, task: WorkerTask, local_rank: int, world: int) -> None:
    """Copy the features to this machine, once for all its workers."""
    if local_rank == 0 and not folder.exists():
        batches = read_features(task.files, Storage(task.options.storage))
        write_feature_cache(batches, task.rows, task.shape, task.dtype, folder)
    if world > 1:
        torch.distributed.barrier()

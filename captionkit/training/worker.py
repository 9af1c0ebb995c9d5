"""What each training worker does: Ray Train starts it, DDP ties it to the others.

Any number of workers goes through the same batches and minimises the same loss, each its share. All that chance decides
follows from the seed and the step, so a worker that starts again from a checkpoint goes on as if nothing had been.
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
from captionkit.model.device import fast_bfloat16
from captionkit.training.augment import augment
from captionkit.training.batches import seed_step, share
from captionkit.training.checkpoints import History, resume, write_checkpoint
from captionkit.training.feature_cache import Rows, ingest
from captionkit.training.losses import Objective, Totals
from captionkit.training.optim import adamw, averaged, rate_at
from captionkit.training.scst import advantages, draw, greedy, rewards
from captionkit.training.stages import Work
from captionkit.training.validator import Validator, references
from captionkit.vocabulary import EOS, PAD

STATISTICS_OF = 1000
"""Images by whose features all features are brought to one scale."""


def train_worker(config: dict[str, Any]) -> None:
    """The loop of one worker; `config["work"]` is a reference to its `Work`."""
    # With each checkpoint Ray Train prints the whole learning curve, by a logger that it names by its file.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray.train") or "ray/train/" in Path(name).as_posix():
            logging.getLogger(name).setLevel(logging.WARNING)
    work: Work = ray.get(config["work"])
    Worker(work).run()


class Worker:
    """One worker of a stage."""

    def __init__(self, work: Work) -> None:
        context = ray.train.get_context()
        self.work, self.stage, self.options = work, work.stage, work.options
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(work.threads)
        self.rows = self._ingest(context.get_local_rank())
        self.dev_rows = Rows(self._folder, work.dev.images)
        decoder = work.decoder.build()
        decoder.load_state_dict(dict(work.weights))
        if self.stage.name == "captions" and self.options.network.init is None:
            some = np.unique(np.linspace(0, len(work.train.images) - 1, STATISTICS_OF, dtype=np.int64))
            decoder.set_feature_statistics(self.rows.gather(some, torch.device("cpu")))
        steps = self.options.steps
        encoder = None if work.encoder is None else work.encoder.build()
        if encoder and (layers := self.options.finetune.finetune_layers):
            encoder.train_only(layers)
        self.objective = Objective(
            decoder,
            encoder,
            steps.label_smoothing,
            steps.attention_penalty if self.stage.name != "scst" else 0.0,
        ).to(self.device)
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
        self.order = self.stage.order(work.train, steps.seed)
        self.steps = max(1, round(self.stage.epochs * self.order.steps_per_epoch))
        every = self.options.validate.validate_every * self.order.steps_per_epoch
        self.validate_every = max(1, min(self.steps, round(every)))
        self.log_every = max(1, self.validate_every // 10)
        self.validator = Validator(work.dev, work.search, self.rank, self.world)
        dtype = steps.dtype
        self.bfloat16 = dtype == "bfloat16" or (dtype == "auto" and fast_bfloat16(self.device))
        if self.stage.name == "scst":
            known = [[[*caption, EOS] for caption in captions] for captions in references(work.train)]
            self.cider = CiderD(known, DocumentFrequencies.of(known))

    def run(self) -> None:
        """Train from the last checkpoint, if there is one, to the end."""
        history = History()
        self._said, self._from, self._began = time.monotonic(), 0, time.monotonic()
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                history = resume(Path(folder), self.objective, self.average, self.optimizer, self.device)
            self._tell(
                f"{self.stage.name}: goes on from the checkpoint at step {history.step:,} of {self.steps:,}"
                if history.step < self.steps
                else f"{self.stage.name}: done before, {counted(self.steps, 'step')}"
            )
        elif self.stage.name != "captions":
            self._validate(history, 0)  # what the stage before has reached is to be beaten
        self._from, self._began = history.step, time.monotonic()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        reward = 0.0
        for step in range(history.step, self.steps):
            if self._worn_out(history):
                break
            seed_step(self.options.steps.seed, step, self.rank)
            self._set_rates(step)
            loss, gained = self._step(step)
            total += loss
            reward += gained
            done = step + 1
            if done % self.log_every == 0 or done == self.steps:
                count = (done - 1) % self.log_every + 1
                history.add(done, done / self.order.steps_per_epoch, self._mean(total, reward, count))
                total.zero_()
                reward = 0.0
                self._say(history)
            if done % self.validate_every == 0 or done == self.steps:
                self._validate(history, done)
                self._began, self._from = time.monotonic(), done

    def _worn_out(self, history: History) -> bool:
        judged = [point["cider"] for point in history.points if "cider" in point]
        patience = self.options.validate.patience
        return len(judged) > patience and max(judged[-patience:]) <= max(judged[:-patience])

    def _set_rates(self, step: int) -> None:
        steps = self.options.steps
        schedule = "constant" if self.stage.name == "scst" else steps.schedule
        factor = rate_at(step, self.steps, steps.warmup, schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * factor

    def _step(self, step: int) -> tuple[Tensor, float]:
        """One step; this worker's share of the loss, and of the reward."""
        batch = self.order.batch(step)
        mine = share(batch, self.rank, self.world)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        if self.stage.name == "scst":
            loss, reward = self._scst_loss(mine, len(batch), step)
            self._backward(loss)
        else:
            loss, reward = torch.zeros((), device=self.device), 0.0
            parts = np.array_split(mine, min(self.stage.accumulate, len(mine)))
            totals = self._totals(batch)
            for number, part in enumerate(parts, 1):
                # Gradients travel once a step, with the last part's.
                wait = isinstance(self.model, DistributedDataParallel) and number < len(parts)
                with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
                    share_of = self._caption_loss(part, totals, step)
                    self._backward(share_of)
                loss += share_of.detach()
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.options.steps.clip)
        self.optimizer.step()
        self.average.update_parameters(self.objective)
        return loss.detach(), reward

    def _backward(self, loss: Tensor) -> None:
        # DDP takes the mean over workers, and the shares are to be added.
        (loss * self.world).backward()

    def _totals(self, batch: NDArray[np.int64]) -> Totals:
        captions = self.work.train.of_images(batch)[0] if self.stage.by_image else batch
        length = self._padded_length
        tokens = len(captions) * length if length else int(self.work.train.lengths(captions).sum())
        return Totals(len(captions), tokens)

    @property
    def _padded_length(self) -> int:
        """Places that a decoder which also learns "no word" has to fill, whatever the batch; 0 for others."""
        return self.options.corpus.max_words + 1 if self.decoder.predicts_padding else 0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _caption_loss(self, rows: NDArray[np.int64], totals: Totals, step: int) -> Tensor:
        train = self.work.train
        captions, which = train.of_images(rows) if self.stage.by_image else (rows, None)
        tokens = train.padded(captions)
        if self._padded_length:
            tokens = nn.functional.pad(tokens, (0, self._padded_length + 1 - tokens.shape[1]), value=PAD)
        inputs = self._inputs(self.rows, train.image[captions] if which is None else rows, augmented=True)
        image = None if which is None else torch.from_numpy(which).to(self.device)
        scheduled = self.options.steps.scheduled_sampling * step / self.steps
        with self._autocast():
            loss: Tensor = self.model(inputs, tokens.to(self.device), totals, scheduled, image=image)
        return loss

    def _scst_loss(self, images: NDArray[np.int64], total: int, step: int) -> tuple[Tensor, float]:
        options, longest = self.options.scst, self.options.corpus.max_words
        features = self._inputs(self.rows, images)
        self.objective.eval()
        with self._autocast():
            sampled = draw(self.decoder, features, options.scst_samples, longest)
            baseline = None
            if options.scst_samples == 1:
                baseline = rewards(self.cider, images.tolist(), greedy(self.decoder, features, longest))
        found = rewards(self.cider, images.tolist(), sampled).view(len(images), -1)
        better = advantages(found, baseline).flatten()
        self.model.train()
        # The words of the whole batch: what the other workers have drawn is not known here.
        words = self._sum(torch.tensor(float((sampled[:, 1:] != PAD).sum()), device=self.device))
        totals = Totals(total * options.scst_samples, max(1, round(float(words))))
        with self._autocast():
            loss: Tensor = self.model(
                features.repeat_interleave(options.scst_samples, dim=0), sampled, totals, 0.0, better
            )
        return loss, float(found.sum()) / (total * options.scst_samples)

    def _inputs(self, rows: Rows, images: NDArray[np.int64], augmented: bool = False) -> Tensor:
        values = rows.gather(images, self.device)
        if self.work.encoder is None:
            return values.float()
        if augmented:
            return augment(values, self.options.finetune.crop, self.options.finetune.mirror)
        return values

    def _validate(self, history: History, step: int) -> None:
        judged = self.average.module.eval()
        assert isinstance(judged, Objective)

        def features(images: NDArray[np.int64]) -> Tensor:
            inputs = self._inputs(self.dev_rows, images)
            with torch.no_grad(), self._autocast():
                return inputs if judged.encoder is None else judged.encoder(inputs)

        with self._autocast():
            cider, captions = self.validator.judge(judged.decoder, features)
        history.add(step, step / self.order.steps_per_epoch, {"cider": cider})
        self._say(history, always=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                write_checkpoint(Path(folder), self.objective, self.average, self.optimizer, history)
                self._write_captions(Path(folder), captions)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"cider": cider, "step": step, "points": history.points}, checkpoint=checkpoint)

    def _write_captions(self, folder: Path, captions: list[list[int]]) -> None:
        lines = [
            f"{image}\t{self.work.vocabulary.decode(ids)}"
            for image, ids in zip(self.work.dev.images, captions, strict=True)
        ]
        (folder / "dev_captions.tsv").write_text("\n".join(lines), encoding="utf-8")

    def _mean(self, loss: Tensor, reward: float, count: int) -> dict[str, float]:
        """Means over `count` steps, of the whole batches."""
        sums = self._sum(torch.stack([loss, torch.tensor(reward, dtype=torch.float64, device=self.device)])) / count
        found = {"loss": float(sums[0]), "rate": float(self.optimizer.param_groups[0]["lr"])}
        if not math.isfinite(found["loss"]):
            raise FloatingPointError(
                "the loss is no number any more; a lower --learning-rate, a smaller --clip or --dtype float32 may help"
            )
        return found | ({"reward": float(sums[1])} if self.stage.name == "scst" else {})

    def _sum(self, value: Tensor) -> Tensor:
        if self.world > 1:
            torch.distributed.all_reduce(value)
        return value

    def _say(self, history: History, always: bool = False) -> None:
        now = time.monotonic()
        if self.rank or not (always or now - self._said >= self.options.cluster.progress_seconds):
            return
        self._said = now
        point = history.points[-1]
        rate = (point["step"] - self._from) / max(1e-9, now - self._began)
        left = f", {(self.steps - point['step']) / rate / 60:.1f} min left" if rate else ""
        figures = ", ".join(f"{name} {point[name]:.3f}" for name in ("loss", "reward", "cider") if name in point)
        self._tell(f"{self.stage.name}: step {point['step']:,} of {self.steps:,}, {figures}, {rate:.2f} steps/s{left}")

    def _tell(self, line: str) -> None:
        if self.rank == 0:
            # Not by print, which Ray Train takes for its own log and says twice.
            sys.stderr.write(f"{line}\n")

    @property
    def _folder(self) -> Path:
        return Path(tempfile.gettempdir()) / "captionkit-features" / self.work.cache

    def _ingest(self, local_rank: int) -> Rows:
        """Stream the features onto this machine, once for all its workers."""
        if local_rank == 0 and not self._folder.exists():
            batches = ray.train.get_dataset_shard("features").iter_batches(batch_size=256, batch_format="pyarrow")
            ingest(batches, self.work.rows, self.work.shape, self.work.dtype, self._folder)
        if self.world > 1:
            torch.distributed.barrier()
        return Rows(self._folder, self.work.train.images)

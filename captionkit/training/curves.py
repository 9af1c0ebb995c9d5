"""The learning curve: as an image, as TensorBoard events, as JSON lines, and in an experiment tracker."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback

from captionkit.storage import Storage, StorageOptions

Points = Sequence[Mapping[str, float]]
METRICS = "metrics.jsonl"
"""File of all points, in the output folder."""


class CurveCallback(UserCallback):  # type: ignore[misc]  # Ray publishes no types
    """Rewrites the output folder's curve and metrics after each validation. Ray Train's controller calls it.

    Args:
        previous: points of the stages before this one, by stage.
        track: "none", "mlflow" or "wandb".
    """

    def __init__(
        self, output: str, storage: StorageOptions, stage: str, previous: dict[str, Points], track: str
    ) -> None:
        self._output, self._storage, self._stage, self._previous = output, storage, stage, previous
        self._tracker = track
        self._sent = 0  # points that the tracker has

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        points = metrics[0]["points"]
        write_curves({**self._previous, self._stage: points}, self._output, Storage(self._storage))
        if self._tracker != "none":
            send(self._tracker, self._stage, points[self._sent :])
            self._sent = len(points)


def write_curves(stages: Mapping[str, Points], output: str, storage: Storage) -> None:
    """Rewrite `curve.png`, `metrics.jsonl` and `tensorboard/` in the output folder from all points."""
    storage.write(storage.join(output, "curve.png"), curve_image(stages))
    lines = [json.dumps({"stage": stage, **point}) for stage, points in stages.items() for point in points]
    storage.write(storage.join(output, METRICS), ("\n".join(lines) + "\n").encode())
    storage.write(storage.join(output, "tensorboard", "events.out.tfevents.0.captionkit"), event_file(stages))


def curve_image(stages: Mapping[str, Points]) -> bytes:
    """Loss and dev CIDEr over epochs, stage after stage, as a PNG."""
    from matplotlib.figure import Figure  # no window, no global state

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    offset = 0.0
    for stage, points in stages.items():
        for axis, name in ((left, "loss"), (right, "cider")):
            chosen = [(offset + point["epoch"], point[name]) for point in points if name in point]
            if chosen and not (name == "loss" and stage == "scst"):  # its loss does not measure the captions' quality
                axis.plot(*zip(*chosen, strict=True), label=stage, marker="o" if name == "cider" else None, ms=3)
        offset += max((point["epoch"] for point in points), default=0.0)
    for axis, title in ((left, "training loss (nats a word)"), (right, "dev CIDEr-D × 100")):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epochs")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def event_file(stages: Mapping[str, Points]) -> bytes:
    """All points as one TensorBoard event file."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder, write_to_disk=True) as writer:
            for stage, points in stages.items():
                for point in points:
                    for name, value in point.items():
                        if name != "step":
                            writer.add_scalar(f"{stage}/{name}", value, int(point["step"]))
        return next(Path(folder).glob("events.*")).read_bytes()


def send(tracker: str, stage: str, points: Points) -> None:
    """Send points to MLflow ("mlflow") or Weights & Biases ("wandb"), which their environment variables configure."""
    for point in points:
        figures = {f"{stage}/{name}": value for name, value in point.items() if name != "step"}
        if tracker == "mlflow":
            import mlflow

            mlflow.log_metrics(figures, step=int(point["step"]))
        else:
            import wandb

            if wandb.run is None:
                wandb.init(project="captionkit")
            wandb.log({**figures, f"{stage}/step": point["step"]})

"""The caption job against two others that do the same, on one machine, in one run.

- `job`: captionkit's caption job.
- `loader`: a plain DataLoader with worker processes that decode, a loop that captions. No rows, no table, no faults
  borne: what one machine could do at best.
- `naive`: `ray.data.read_images(...).map_batches(...).write_parquet(...)`, as the documentation shows it.

All three use one bundle, one search, one batch size. Each runs on a small and on a large number of images, in turn, and
its steady rate is the slope between the two, so that starting up does not count. What is printed are ratios of the
rates of one round; absolute rates depend on the machine and what else runs on it.

    python benchmarks/pipeline.py                                # the embedded captioner
    python benchmarks/pipeline.py --model BUNDLE --images 2000   # another
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from _contest import print_seconds, ratio_row, seconds
from _report import report

CONTESTANTS = ("job", "loader", "naive")


@dataclass(frozen=True)
class Options:
    """Steady rates of the caption job, a DataLoader loop and a naive Ray Data job."""

    model: str | None = None
    """Bundle. Default: the embedded one."""
    images: int = 2000
    """Images in the large run."""
    small: int = 500
    """Images in the small run."""
    size: int = 480
    """Side of the images in pixels."""
    beam: int = 3
    batch_size: int = 64
    rounds: int = 3
    loader_workers: int = 2
    """Worker processes of the DataLoader."""
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""
    run: str | None = None
    """(Used by the benchmark itself: run this contestant on --folder and print its seconds.)"""
    folder: str = ""


def make_images(folder: Path, count: int, size: int) -> None:
    """`count` JPEGs, of 200 different images: drawing takes longer than captioning."""
    import io

    from captionkit.scenes import draw, random_scene

    folder.mkdir(parents=True)
    images = []
    for seed in range(min(count, 200)):
        buffer = io.BytesIO()
        draw(random_scene(seed), size).save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(images[number % len(images)])


def run_job(options: Options) -> float:
    from captionkit.inputs.options import InputOptions
    from captionkit.model.search.options import SearchOptions
    from captionkit.pipeline.job import CaptionJob
    from captionkit.pipeline.options import CaptionOptions, ModelOptions, OutputOptions

    with tempfile.TemporaryDirectory() as output:
        record = CaptionJob(
            CaptionOptions(
                InputOptions((options.folder,)),
                OutputOptions(output),
                ModelOptions(model=options.model, batch_size=options.batch_size),
                SearchOptions(beam=options.beam),
            )
        ).run()
        assert record.counts["failed"] == 0
        return record.seconds["captioning"]


def run_loader(options: Options) -> float:
    import torch
    from torch.utils.data import DataLoader, Dataset

    from captionkit import Captioner
    from captionkit.images import decode
    from captionkit.model.search.options import SearchOptions

    captioner = Captioner.load(options.model)

    class Files(Dataset[Any]):
        paths = sorted(Path(options.folder).glob("*.jpg"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(decode(self.paths[index].read_bytes(), captioner.preprocessing).pixels)

    start = time.perf_counter()
    captions = []
    for batch in DataLoader(Files(), options.batch_size, num_workers=options.loader_workers):
        captions += captioner.caption_pixels(batch.numpy(), SearchOptions(beam=options.beam))
    assert len(captions) == len(Files.paths)
    return time.perf_counter() - start


class NaiveCaptioner:
    def __init__(self, model: str | None, beam: int) -> None:
        from captionkit import Captioner
        from captionkit.model.search.options import SearchOptions

        self.captioner = Captioner.load(model)
        self.search = SearchOptions(beam=beam)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = self.captioner.caption_pixels(batch["image"], self.search)
        return {"path": batch["path"], "caption": [best.text for best, *_ in found]}


def run_naive(options: Options) -> float:
    import ray

    from captionkit import Captioner

    ray.init(include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = Captioner.load(options.model).preprocessing.size
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        images = ray.data.read_images(options.folder, size=(size, size), mode="RGB", include_paths=True)
        images.map_batches(
            NaiveCaptioner,
            fn_constructor_args=(options.model, options.beam),
            batch_size=options.batch_size,
            concurrency=1,
        ).write_parquet(output)
        return time.perf_counter() - start


def main(options: Options) -> None:
    """Run all contestants in turn, print a line a round, then the medians of the ratios."""
    if options.run:
        took = {"job": run_job, "loader": run_loader, "naive": run_naive}[options.run](options)
        print_seconds(took)
        return
    root = Path(tempfile.mkdtemp())
    same = {
        "beam": options.beam,
        "batch_size": options.batch_size,
        "loader_workers": options.loader_workers,
        "model": options.model,
    }
    try:
        folders = {count: root / str(count) for count in (options.small, options.images)}
        for count, folder in folders.items():
            make_images(folder, count, options.size)
        against: dict[str, list[float]] = {"loader": [], "naive": []}
        for number in range(options.rounds):
            rates = {}
            for name in CONTESTANTS:
                small, large = (seconds(__file__, name, folder=folder, **same) for folder in folders.values())
                rates[name] = (options.images - options.small) / (large - small)
            for name, ratios in against.items():
                ratios.append(rates["job"] / rates[name])
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {rate:.1f}/s" for name, rate in rates.items()),
                flush=True,
            )
        report([ratio_row(f"job / {name}", ratios) for name, ratios in against.items()], options.json)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(tyro.cli(Options))

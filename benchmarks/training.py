"""The training job against a plain PyTorch loop over the same cached features, on one machine, in one run.

- `job`: `captionkit train` on one worker, the features being in its cache already: Ray Train, its order of batches,
  its logging; judged by the slope between a short and a long training, so that starting up does not count.
- `plain`: the features and the captions in memory, and the twelve lines that everybody writes: pad, forward, loss,
  backward, clip, step.

Both train one decoder of one size on the same captions with the same batch, in fp32, on as many threads. What is
printed are ratios of the rates of one round.

    python benchmarks/training.py                               # show_tell
    python benchmarks/training.py --decoder soft_attention --steps 60 180
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from _contest import print_seconds, ratio_row, seconds
from _report import report
from PIL import Image

IMAGES, PER_IMAGE, WORDS = 400, 5, 2500


@dataclass(frozen=True)
class Options:
    """Steady rates of the training job and a plain loop."""

    decoder: str = "show_tell"
    steps: tuple[int, int] = (150, 600)
    """Lengths of the short and of the long training."""
    batch_size: int = 64
    threads: int = 1
    rounds: int = 3
    json: str | None = None
    """Also write the table, with the machine's facts, to this file."""
    run: str | None = None
    """(Used by the benchmark itself: run this contestant on --folder and print its seconds.)"""
    folder: str = ""
    length: int = 0


def make_corpus(folder: Path) -> None:
    """Small images, and captions of words as frequent as words are (Zipf), 8 to 14 to a caption as in Flickr8k."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(WORDS)]
    chances = 1 / np.arange(1, WORDS + 1)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number in range(IMAGES):
            name = f"{number:04d}.jpg"
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / name)
            for _ in range(PER_IMAGE):
                chosen = rng.choice(words, rng.integers(8, 15), p=chances / chances.sum())
                rows.writerow([name, " ".join(chosen)])
    (folder / "dev.txt").write_text("0000.jpg\n0001.jpg\n")


def train_options(options: Options):  # type: ignore[no-untyped-def]
    from captionkit.training.options import (
        CorpusOptions,
        NetworkOptions,
        ResultOptions,
        StepOptions,
        TrainOptions,
        ValidateOptions,
        WorkerOptions,
    )

    folder = Path(options.folder)
    epoch = round((IMAGES - 2) * PER_IMAGE / options.batch_size)
    return TrainOptions(
        corpus=CorpusOptions((str(folder / "captions.csv"),), dev_list=str(folder / "dev.txt"), min_count=1),
        result=ResultOptions(tempfile.mkdtemp(dir=folder)),
        network=NetworkOptions(
            decoder=options.decoder,  # type: ignore[arg-type]
            encoder="squeezenet1_1",
            encoder_weights="none",
            image_size=64,
        ),
        steps=StepOptions(epochs=options.length / epoch, batch_size=options.batch_size, dtype="float32"),
        validate=ValidateOptions(validate_every=1e9, beam=1),
        cluster=WorkerOptions(threads=options.threads, cache=str(folder / "features")),
    )


def run_job(options: Options) -> float:
    import ray

    from captionkit.training.job import TrainJob

    ray.init(include_dashboard=False, logging_level="ERROR")
    job = TrainJob(train_options(options))
    start = time.perf_counter()
    job.run()
    return time.perf_counter() - start


def run_plain(options: Options) -> float:
    import pyarrow.parquet as pq
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from captionkit.model.decoders import build_decoder
    from captionkit.storage import Storage, StorageOptions
    from captionkit.training.corpus import read_training_corpus
    from captionkit.vocabulary import BOS, EOS, PAD

    torch.set_num_threads(options.threads)
    corpus = read_training_corpus(train_options(options).corpus, Storage(StorageOptions()))
    vocabulary = corpus.vocabulary(1)
    rows = [
        row for file in Path(options.folder, "features").rglob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    known = {row["uri"]: np.frombuffer(row["values"], np.float16).astype(np.float32) for row in rows}
    decoder = build_decoder(options.decoder, {"vocab_size": len(vocabulary), "feature_size": 512})
    grid = (-1, 512) if decoder.feature_kind == "grid" else (512,)
    pairs = [
        (torch.from_numpy(known[image].reshape(grid)), torch.tensor([BOS, *vocabulary.encode(text), EOS]))
        for image, texts in corpus.train
        for text in texts
    ]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    order = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(options.length):
        chosen = [pairs[place] for place in order.integers(0, len(pairs), options.batch_size)]
        features = torch.stack([feature for feature, _ in chosen])
        tokens = nn.utils.rnn.pad_sequence([words for _, words in chosen], batch_first=True, padding_value=PAD)
        logits = decoder(features, tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
    return time.perf_counter() - start


def main(options: Options) -> None:
    """Run both in turn, print a line a round, then the median of the ratios."""
    if options.run:
        print_seconds({"job": run_job, "plain": run_plain}[options.run](options))
        return
    folder = Path(tempfile.mkdtemp())
    same = {
        "folder": folder,
        "decoder": options.decoder,
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    try:
        make_corpus(folder)
        seconds(__file__, "job", length=1, **same)  # makes the features
        ratios = []
        short, long = options.steps
        for number in range(options.rounds):
            rates = {}
            for name in ("job", "plain"):
                took = [seconds(__file__, name, length=length, **same) for length in (short, long)]
                rates[name] = (long - short) / (took[1] - took[0])
            ratios.append(rates["job"] / rates["plain"])
            print(f"round {number + 1}: " + ", ".join(f"{name} {rate:.2f} steps/s" for name, rate in rates.items()))
        report([ratio_row("job / plain", ratios)], options.json)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(tyro.cli(Options))

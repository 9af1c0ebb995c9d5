"""Where a GPU's time goes: ResNet-50 and `top_down`, encoding, search, both from pixels in memory, both from files.

Weights are random, so that none need be downloaded: captions are noise, of full length, and the arithmetic is that of a
trained captioner at its slowest. Rates are medians of rounds in turn; what to compare are their ratios.

    python benchmarks/gpu.py                            # on a GPU: bfloat16, batches of 256
    python benchmarks/gpu.py --images 64 --batch 16     # to try it on a CPU
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _report import Row, report
from PIL import Image

from captionkit.model.captioner import Captioner
from captionkit.model.decoders import build_decoder
from captionkit.model.device import pick_device, pick_dtype
from captionkit.model.encoders import build_encoder
from captionkit.model.search.options import SearchOptions
from captionkit.vocabulary import Vocabulary


def build(words: int, device: str) -> Captioner:
    """A captioner of random weights with about so many words, in the device's own dtype."""
    torch.manual_seed(0)
    place = pick_device(device)
    dtype = pick_dtype("auto", place)
    vocabulary = Vocabulary.build([f"word{number}" for number in range(words)], min_count=1)
    encoder = build_encoder("resnet50", output="grid", weights="none")
    decoder = build_decoder("top_down", {"vocab_size": len(vocabulary), "feature_size": encoder.feature_size})
    return Captioner(encoder.to(place, dtype), decoder.to(place, dtype), vocabulary)


def jpegs(folder: Path, count: int) -> list[str]:
    """Files of photographs' usual size (500 × 375), of 50 different ones."""
    random, made = np.random.default_rng(0), []
    for _ in range(min(50, count)):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        data = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
        made.append(data.getvalue())
    paths = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(made[number % len(made)])
        paths.append(str(path))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--words", type=int, default=9487)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", help="also write the table, with the machine's facts, to this file")
    options = parser.parse_args()
    captioner = build(options.words, options.device)
    search = SearchOptions(beam=options.beam, max_length=20)
    size = captioner.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (options.batch, size, size, 3), np.uint8)
    features = captioner.encode(pixels)
    batches = max(1, options.images // options.batch)
    resident = torch.from_numpy(pixels).to(captioner.device)

    def encode() -> None:
        for _ in range(batches):
            with torch.inference_mode():
                captioner.encoder(resident)

    def decode() -> None:
        for _ in range(batches):
            captioner.caption_features(features, search)

    def both() -> None:
        for _ in range(batches):
            captioner.caption_pixels(pixels, search)

    with tempfile.TemporaryDirectory() as folder:
        paths = jpegs(Path(folder), batches * options.batch)

        def files() -> None:
            captioner.caption(paths, search, batch_size=options.batch)

        stages: dict[str, Callable[[], None]] = {"encode": encode, "search": decode, "pixels": both, "files": files}
        seconds: dict[str, list[float]] = {name: [] for name in stages}
        for round_number in range(options.rounds + 1):  # the first allocates and compiles, and does not count
            for name, run in stages.items():
                start = time.perf_counter()
                run()
                if captioner.device.type == "cuda":
                    torch.cuda.synchronize()
                if round_number:
                    seconds[name].append(time.perf_counter() - start)
    images = batches * options.batch
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    whole = ("pixels", "files")
    apart = middle["encode"] + middle["search"]
    rows: list[Row] = [
        {"stage": name, "images/s": images / took, "against encode + search": apart / took if name in whole else None}
        for name, took in middle.items()
    ]
    print(f"{captioner.dtype}, torch {torch.__version__}")
    report(rows, options.json, torch.cuda.get_device_name() if captioner.device.type == "cuda" else None)


if __name__ == "__main__":
    main()

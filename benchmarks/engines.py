"""How fast a CPU computes an encoder: PyTorch as it was, with folded batch norms, and OpenVINO.

Rates are images per second of CPU time (user and system), medians of rounds in turn in one process, so that they hold
on a machine where others work too. Starting is CPU time as well, with the first batch. Weights are random.

    python benchmarks/engines.py --threads 1
    pip install 'captionkit[openvino]'        # else it is left out
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from _report import Row, report
from torch import Tensor

from captionkit.model.device import pick_dtype
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.model.engines import Encode, has_openvino, make_encode

CPU = torch.device("cpu")


def as_it_was(encoder: Encoder, dtype: torch.dtype) -> Encode:
    """The encoder itself, without folding."""
    return copy.deepcopy(encoder).eval().to(CPU, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet50", "mobilenet_v3_large"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="also write the table, with the machine's facts, to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        os.environ["XDG_CACHE_HOME"] = cache
        for name in options.networks:
            rows += compare(name, options.batch, options.rounds)
    report(rows, options.json)


def compare(name: str, batch: int, rounds: int) -> list[Row]:
    """A row for each way to compute a network."""
    torch.manual_seed(0)
    encoder = build_encoder(name, "grid", "none")
    size = encoder.preprocessing.size
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    dtypes = list(dict.fromkeys([torch.float32, pick_dtype("auto", CPU)]))
    ways: dict[str, Callable[[], Encode]] = {}
    for dtype in dtypes:
        number = str(dtype).removeprefix("torch.")
        ways[f"{number}, as it was"] = lambda dtype=dtype: as_it_was(encoder, dtype)
        ways[f"{number}, folded"] = lambda dtype=dtype: make_encode(encoder, CPU, dtype, "torch", name)[0]
        if has_openvino():
            ways[f"{number}, OpenVINO"] = lambda dtype=dtype: make_encode(encoder, CPU, dtype, "openvino", name)[0]
    encodes: dict[str, Encode] = {}
    starts: dict[str, float] = {}
    errors: dict[str, float] = {}
    expected = encoder(pixels)
    for way, make in ways.items():
        start = time.process_time()
        encodes[way] = make()
        features: Tensor = encodes[way](pixels)
        starts[way] = time.process_time() - start
        errors[way] = float((features.float() - expected).norm() / expected.norm())
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, encode in encodes.items():
            start = time.process_time()
            encode(pixels)
            seconds[way].append(time.process_time() - start)
    middle = {way: statistics.median(times) for way, times in seconds.items()}
    former = middle["float32, as it was"]
    return [
        {
            "network": name,
            "computed in": way,
            "images per CPU second": batch / took,
            "× float32, as it was": former / took,
            "start, CPU seconds": starts[way],
            "relative error": errors[way],
        }
        for way, took in middle.items()
    ]


if __name__ == "__main__":
    main()

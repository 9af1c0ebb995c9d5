"""How fast a CPU searches with attention: the grid read once for each image, or for each hypothesis as it was.

CPU time (user and system) of one batch, medians of rounds in turn in one process. Weights are random, so that captions
have full length, and are compared: "equal" is the share of captions that both ways give alike.

    python benchmarks/search.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest.mock import patch

import torch
from _report import Row, report

from captionkit.model.decoders import build_decoder
from captionkit.model.decoders.attention import AttentionDecoder
from captionkit.model.device import DTYPES
from captionkit.model.search.options import SearchOptions
from captionkit.model.search.ranking import SearchResult
from captionkit.model.search.search import search


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["soft_attention", "top_down"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(DTYPES))
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--words", type=int, default=9487)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="also write the table, with the machine's facts, to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for family in options.families:
        for dtype in options.dtypes:
            torch.manual_seed(0)
            decoder = build_decoder(family, {"vocab_size": options.words, "feature_size": 2048})
            decoder = decoder.eval().to_dtype(DTYPES[dtype])
            features = torch.rand(options.batch, 49, 2048).to(DTYPES[dtype])
            for beam in options.beams:
                chosen = SearchOptions(beam=beam, max_length=options.length)

                def find(chosen: SearchOptions = chosen) -> tuple[float, SearchResult]:
                    start = time.process_time()
                    found = search(decoder, features, chosen, bos=1, eos=2, pad=0)  # noqa: B023
                    return time.process_time() - start, found

                now: list[float] = []
                former: list[float] = []
                for number in range(options.rounds + 1):  # the first allocates, and does not count
                    took, found = find()
                    with patch.object(AttentionDecoder, "shared_memory", frozenset()):
                        took_before, before = find()
                    if number:
                        now.append(took)
                        former.append(took_before)
                equal = (found.tokens == before.tokens).all(dim=-1).float().mean()
                rows.append(
                    {
                        "decoder": family,
                        "dtype": dtype,
                        "beam": beam,
                        "captions per CPU second": options.batch / statistics.median(now),
                        "× as it was": statistics.median(former) / statistics.median(now),
                        "equal": float(equal),
                    }
                )
    report(rows, options.json)


if __name__ == "__main__":
    main()

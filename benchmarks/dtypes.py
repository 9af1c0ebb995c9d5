"""How many captions of drawn scenes another number format changes, by the embedded captioner, against float32.

"encoder" computes the encoder alone in that format, "both" the decoder too.

    python benchmarks/dtypes.py --scenes 400
"""

from __future__ import annotations

import argparse

import numpy as np
from _report import Row, report

from captionkit.model.captioner import Captioner, Hypothesis
from captionkit.model.search import SearchOptions
from captionkit.scenes import draw, random_scene

FIRST_SEED = 30_000_000  # far from those of training
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--json", help="also write the table, with the machine's facts, to this file")
    options = parser.parse_args()
    exact = Captioner.load(dtype="float32")
    size, seeds = exact.preprocessing.size, range(FIRST_SEED, FIRST_SEED + options.scenes)
    pixels = np.stack([np.asarray(draw(random_scene(seed), size).convert("RGB")) for seed in seeds])

    def caption(encoder: Captioner, decoder: Captioner) -> list[Hypothesis]:
        found: list[Hypothesis] = []
        for first in range(0, len(pixels), BATCH):
            features = encoder.encode(pixels[first : first + BATCH]).to(decoder.dtype)
            captions = decoder.caption_features(features, SearchOptions(beam=options.beam))
            found += [hypotheses[0] for hypotheses in captions]
        return found

    expected = caption(exact, exact)
    rows: list[Row] = []
    for dtype in options.dtypes:
        other = Captioner.load(dtype=dtype)
        for part, decoder in (("encoder", exact), ("both", other)):
            pairs = list(zip(expected, caption(other, decoder), strict=True))
            scores = [abs(one.score - two.score) for one, two in pairs if one.text == two.text]
            rows.append(
                {
                    "dtype": dtype,
                    "part": part,
                    "scenes": len(pairs),
                    "equal captions": len(scores),
                    "greatest difference of their scores": max(scores, default=0.0),
                }
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()

"""Train and evaluate the embedded captioner, which ships inside the package and captions drawn scenes.

python -m captionkit.training.embedded --output captionkit/assets/default   # draw, train, evaluate, save
python -m captionkit.training.embedded --evaluate 1000                      # evaluate the one in the package
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from captionkit.images import Preprocessing, decode
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import build_decoder
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.scenes import Scene, captions, draw, judge, random_scene
from captionkit.training.batches import pad_tokens
from captionkit.training.embedded.facts import fact_loss, facts
from captionkit.training.embedded.loop import LoopOptions, Point, fit, teacher_forcing
from captionkit.vocabulary import Vocabulary

HELD_OUT = 20_000_000
"""First seed of the scenes that are not used for training."""
NOTE = "for scenes that captionkit draws itself; it has seen no photographs"
PHRASINGS = 4
"""Training captions per scene."""


@dataclass(frozen=True)
class EmbeddedOptions:
    """Train the embedded captioner on drawn scenes, or evaluate a captioner on them."""

    output: str | None = None
    """Folder to save the trained bundle in. Default: train nothing, evaluate --model."""
    evaluate: int = 1000
    """Held-out scenes to evaluate on."""
    model: str | None = None
    """Bundle to evaluate if nothing is trained. Default: the embedded one."""
    scenes: int = 75_000
    """Training scenes; each is also used mirrored."""
    encoder: str = "tiny_resnet"
    """Convolutional network, by name. It starts from random weights."""
    size: int = 96
    """Side of the network's input images, in pixels."""
    encoder_steps: int = 16_500
    """Steps of the encoder's training on facts, with 64 images each."""
    encoder_rate: float = 2e-3
    """Highest learning rate of the encoder."""
    decoder_steps: int = 10_000
    """Steps of the decoder's training on captions, with 128 captions each."""
    decoder_rate: float = 3e-3
    """Highest learning rate of the decoder."""
    decoder: str = "par_inject"
    """Decoder family. par_inject reads the features at every word; show_tell, which reads them only at the start, mixes
    up the attributes of two kinds of things."""
    embed_size: int = 64
    """Size of the word embeddings."""
    hidden_size: int = 192
    """Size of the decoder's hidden state."""
    dropout: float = 0.05
    """Probability of dropout in the decoder."""
    label_smoothing: float = 0.0
    """Probability spread over all words in the decoder's loss."""
    seed: int = 0
    """Seed of weights, batches and captions."""


@dataclass(frozen=True)
class SceneScores:
    """How often a captioner's captions of held-out scenes are true."""

    scenes: int
    true: float
    """Share of captions without a false claim."""
    claims: float
    """Mean number of claims per caption: kinds, counts, colours, sizes, places, surroundings."""
    kinds_named: float
    """Share of captions that name every kind of thing in the scene."""
    distinct: int
    """Number of different captions."""
    wrong: dict[str, int]
    """Reasons why captions were false, with their counts, the most frequent first."""

    def __str__(self) -> str:
        return (
            f"{self.true:.1%} of {self.scenes:,} captions are true; {self.claims:.1f} claims a caption; "
            f"{self.kinds_named:.1%} name every kind of thing; {self.distinct:,} different captions"
        )


def photograph(seed: int, side: int, quality: int) -> bytes:
    """A drawn scene as JPEG bytes."""
    buffer = io.BytesIO()
    draw(random_scene(seed), side).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def evaluate(captioner: Captioner, scenes: int, first: int = HELD_OUT) -> SceneScores:
    """Caption held-out scenes from JPEG bytes, and check each caption against its scene.

    Args:
        scenes: their number.
        first: seed of the first one.
    """
    verdicts, texts = [], set()
    for start in range(first, first + scenes, 50):
        seeds = range(start, min(start + 50, first + scenes))
        for seed, caption in zip(seeds, captioner.caption([photograph(s, 320, 90) for s in seeds]), strict=True):
            verdicts.append(judge(caption.text or "", random_scene(seed)))
            texts.add(caption.text)
    wrong = Counter(verdict.why for verdict in verdicts if not verdict.true)
    return SceneScores(
        scenes=scenes,
        true=sum(verdict.true for verdict in verdicts) / scenes,
        claims=sum(verdict.claims for verdict in verdicts) / scenes,
        kinds_named=sum(verdict.kinds_named for verdict in verdicts) / scenes,
        distinct=len(texts),
        wrong=dict(wrong.most_common(5)),
    )


def _draw_image(job: tuple[int, Preprocessing]) -> NDArray[np.uint8]:
    """A training image of random size and JPEG quality, decoded as in the pipeline: (size, size, 3) uint8."""
    seed, preprocessing = job
    random = Random(seed + 77)
    side = (112, 144, 192, 320)[int(random.random() * 4)]
    return decode(photograph(seed, side, 75 + int(random.random() * 20)), preprocessing).pixels


def draw_images(count: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The network's input images of the first `count` scenes: (count, size, size, 3) uint8."""
    size = preprocessing.size
    images = np.empty((count, size, size, 3), np.uint8)
    start = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = ((seed, preprocessing) for seed in range(count))
        for index, image in enumerate(pool.map(_draw_image, jobs, chunksize=100)):
            images[index] = image
            if index % 5000 == 4999:
                _print_progress(f"drew {index + 1:,} scenes", start, index + 1, count)
    return images


def _print_progress(what: str, start: float, done: int, total: int) -> None:
    took = time.monotonic() - start
    print(f"{what}, {done / took:.1f}/s, {(total - done) * took / done / 60:.1f} min left", file=sys.stderr, flush=True)


def _indices(count: int, size: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Endless random batches of `size` scenes, shuffled anew each epoch: their indices, and which of them to mirror."""
    random = np.random.default_rng(seed)
    while True:
        for rows in np.array_split(random.permutation(count), max(1, count // size)):
            yield rows, random.random(len(rows)) < 0.5


def _fact_batches(
    images: NDArray[np.uint8], scenes: list[Scene], options: EmbeddedOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    plain = torch.tensor([facts(scene) for scene in scenes])
    mirrored = torch.tensor([facts(scene.mirrored()) for scene in scenes])
    random = np.random.default_rng(options.seed)
    for rows, flip in _indices(len(scenes), 64, options.seed):
        pixels = images[rows]
        pixels[flip] = pixels[flip, :, ::-1]
        targets = torch.where(torch.from_numpy(flip).unsqueeze(1), mirrored[rows], plain[rows])
        yield _zoomed(torch.from_numpy(pixels), random), targets


def _zoomed(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Images (N, size, size, 3) uint8, cropped by up to size / 16 at random and resized back, as augmentation."""
    size = pixels.shape[1]
    side = int(random.integers(size - size // 16, size + 1))
    top, left = random.integers(0, size - side + 1, 2)
    planes = pixels[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
    return interpolate(planes, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


@torch.inference_mode()
def _features(encoder: Encoder, images: NDArray[np.uint8]) -> Tensor:
    """Features of the images and of their mirror images: (2, N, D)."""
    sides = []
    for flipped in (images, images[:, :, ::-1]):
        chunks = [np.ascontiguousarray(flipped[start : start + 256]) for start in range(0, len(flipped), 256)]
        sides.append(torch.cat([encoder(torch.from_numpy(chunk)) for chunk in chunks]))
    return torch.stack(sides).clone()


def _caption_batches(
    features: Tensor, captions: list[list[list[list[int]]]], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of features and padded captions, drawn from features (2, N, D) and captions [2][N][PHRASINGS]."""
    random = np.random.default_rng(seed)
    for rows, flip in _indices(features.shape[1], 128, seed):
        side = flip.astype(np.int64)
        which = random.integers(PHRASINGS, size=len(rows))
        words = [captions[s][row][w] for s, row, w in zip(side.tolist(), rows.tolist(), which.tolist(), strict=True)]
        yield features[side, rows], pad_tokens(words)


def train(options: EmbeddedOptions, images: NDArray[np.uint8] | None = None) -> tuple[Captioner, list[Point]]:
    """Train an encoder on the facts of drawn scenes, then a decoder on its features and the scenes' captions.

    Args:
        images: the training images, as `draw_images` returns them; drawn if not given.

    Returns:
        The captioner, and the decoder's learning curve.
    """
    torch.manual_seed(options.seed)
    # No cropping: captions mention what is on the left and on the right.
    preprocessing = Preprocessing(size=options.size, resize=options.size, mode="squash")
    if images is None:
        images = draw_images(options.scenes, preprocessing)
    scenes = [random_scene(seed) for seed in range(options.scenes)]
    encoder = build_encoder(options.encoder, weights="none", preprocessing=preprocessing)
    fit(
        encoder,
        lambda pixels, targets: fact_loss(encoder(pixels), targets),
        _fact_batches(images, scenes, options),
        LoopOptions(options.encoder_steps, options.encoder_rate, weight_decay=0.02),
        _report("encoder", options.encoder_steps),
        every=100,
    )
    texts = [[captions(s, s.seed, PHRASINGS) for s in side] for side in (scenes, [s.mirrored() for s in scenes])]
    vocabulary = Vocabulary.build((text for side in texts for phrases in side for text in phrases), min_count=1)
    config = {"embed_size": options.embed_size, "hidden_size": options.hidden_size, "dropout": options.dropout}
    decoder = build_decoder(
        options.decoder, {"vocab_size": len(vocabulary), "feature_size": encoder.feature_size, **config}
    )
    ids = [[[vocabulary.encode(text) for text in phrases] for phrases in side] for side in texts]
    curve = fit(
        decoder,
        teacher_forcing(decoder, options.label_smoothing),
        _caption_batches(_features(encoder, images), ids, options.seed),
        LoopOptions(options.decoder_steps, options.decoder_rate),
        _report("decoder", options.decoder_steps),
        every=100,
    )
    return Captioner(encoder, decoder, vocabulary, note=NOTE), curve


def _report(what: str, steps: int) -> Callable[[Point], None]:
    start = time.monotonic()
    return lambda point: _print_progress(
        f"{what}, step {point.step:,}: loss {point.loss:.3f}", start, point.step, steps
    )


def main(options: EmbeddedOptions) -> None:
    """Train if an output is given, then evaluate, and print the results."""
    if options.output is None:
        evaluate_and_print(Captioner.load(options.model), options.evaluate)
        return
    start = time.monotonic()
    captioner, curve = train(options)
    scores = evaluate_and_print(captioner, options.evaluate)
    captioner.provenance = {
        "command": "python -m captionkit.training.embedded --output captionkit/assets/default",
        "options": {name: value for name, value in asdict(options).items() if name not in ("output", "model")},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "loss": round(curve[-1].loss, 4),
        "true_captions": scores.true,
        "claims_per_caption": round(scores.claims, 2),
        "judged_scenes": scores.scenes,
        "torch": str(torch.__version__),
    }
    print(f"saved {captioner.save(options.output, half=True)} in {options.output}")


def evaluate_and_print(captioner: Captioner, scenes: int) -> SceneScores:
    """Evaluate; print the scores and the most frequent mistakes."""
    scores = evaluate(captioner, scenes)
    print(scores)
    for why, count in scores.wrong.items():
        print(f"  {count} × {why}")
    return scores

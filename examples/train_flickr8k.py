"""Train a Show-and-Tell captioner on Flickr8k in one process: features once, then the decoder.

    python examples/train_flickr8k.py --data FOLDER --weights squeezenet1_1.pth --output BUNDLE

FOLDER holds `Flickr8k.token.txt`, `Flickr_8k.trainImages.txt` and tar shards of the photos, `train-*.tar`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarFile

import numpy as np
import torch
import tyro
from torch import Tensor

from captionkit.corpus import read_corpus
from captionkit.images import decode
from captionkit.model.captioner import Captioner
from captionkit.model.decoders.show_tell import ShowTell
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.training.loop import LoopOptions, fit, pad_tokens, teacher_forcing
from captionkit.vocabulary import Vocabulary, WordCounts


@dataclass(frozen=True)
class Options:
    """Train a Show-and-Tell captioner on Flickr8k."""

    data: Path
    output: str
    weights: Path | None = None
    """Encoder weights, a torchvision state dict; by itself torchvision's pretrained ones."""
    encoder: str = "squeezenet1_1"
    min_count: int = 5
    """Words that come less often become `<unk>`."""
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 1e-3
    embed_size: int = 256
    hidden_size: int = 384
    dropout: float = 0.5
    seed: int = 0


@torch.inference_mode()
def features_of(encoder: Encoder, shards: list[Path]) -> dict[str, Tensor]:
    """Pooled features of every photo in tar shards, by name."""
    found: dict[str, Tensor] = {}
    for shard in shards:
        with TarFile.open(shard) as tar:
            bodies = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
            photos = [(name, decode(body.read(), encoder.preprocessing).pixels) for name, body in bodies if body]
        for start in range(0, len(photos), 64):
            part = photos[start : start + 64]
            pixels = torch.from_numpy(np.stack([picture for _, picture in part]))
            found |= zip((name for name, _ in part), encoder(pixels).clone(), strict=True)
        print(f"features of {len(found):,} photos", file=sys.stderr, flush=True)
    return found


def main(options: Options) -> None:
    """Train and save."""
    torch.manual_seed(options.seed)
    weights = "pretrained" if options.weights is None else torch.load(options.weights, weights_only=True)
    encoder = build_encoder(options.encoder, weights=weights)
    corpus = read_corpus(str(options.data / "Flickr8k.token.txt"), images=str(options.data / "*.tar"))
    captions = {record.key: record.captions for record in corpus if record.split == "train"}
    counts = WordCounts.of(text for texts in captions.values() for text in texts)
    vocabulary = Vocabulary.from_counts(counts, options.min_count)
    print(f"{corpus.report}\n{counts.report(vocabulary)}", file=sys.stderr, flush=True)
    features = features_of(encoder, sorted(options.data.glob("train-*.tar")))
    pairs = [(name, vocabulary.encode(text)) for name, texts in captions.items() for text in texts]
    decoder = ShowTell(
        vocab_size=len(vocabulary),
        feature_size=encoder.feature_size,
        embed_size=options.embed_size,
        hidden_size=options.hidden_size,
        dropout=options.dropout,
    )
    random = np.random.default_rng(options.seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for rows in np.array_split(random.permutation(len(pairs)), len(pairs) // options.batch_size):
                chosen = [pairs[row] for row in rows]
                yield torch.stack([features[name] for name, _ in chosen]), pad_tokens(ids for _, ids in chosen)

    start = time.monotonic()
    fit(
        decoder,
        teacher_forcing(decoder),
        batches(),
        LoopOptions(options.steps, options.learning_rate),
        lambda point: print(f"{time.monotonic() - start:.0f} s, {point}", file=sys.stderr, flush=True),
        every=100,
    )
    Captioner(encoder, decoder, vocabulary).save(options.output)


if __name__ == "__main__":
    main(tyro.cli(Options))

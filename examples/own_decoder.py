"""A decoder family of your own: a GRU whose first state is the image. Trained on drawn scenes, then used to caption.

    python examples/own_decoder.py
    python examples/own_decoder.py --steps 600

To have it in `captionkit train --decoder`, put the class into a file of captionkit/model/decoders/, and its name into
`DECODERS` there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captionkit import Captioner
from captionkit.images import prepare
from captionkit.model.decoders import DECODERS, Decoder, State, build_decoder
from captionkit.scenes import captions, draw, random_scene
from captionkit.vocabulary import BOS, EOS, PAD


class Gru(Decoder):
    """The projected image is the first hidden state of a GRU, which then reads word after word."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Decoder.Config):
        hidden_size: int = 128
        """Values of the hidden state, and of a word's vector."""

    config: Config
    name = "gru"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.image = nn.Linear(config.feature_size, config.hidden_size)
        self.words = self.make_embedding(config.hidden_size)
        self.gru = nn.GRUCell(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, D), tokens (N, T) -> logits (N, T, V). Training calls it."""
        state, logits = self.start(features), []
        for column in tokens.unbind(dim=1):
            step, state = self.step(column, state)
            logits.append(step)
        return torch.stack(logits, dim=1)

    def start(self, features: Tensor) -> State:
        return State({"hidden": torch.tanh(self.image(self.standardize(features)))}, {})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens (R,) -> logits (R, V). Search calls it, once for each word."""
        hidden = self.gru(self.words(tokens), state.carry["hidden"])
        return self.output(self.dropout(hidden)), State({"hidden": hidden}, {})


DECODERS[Gru.name] = Gru  # bundles find a family by its name


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a decoder of one's own on drawn scenes.")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)
    embedded = Captioner.load()  # its encoder and vocabulary know drawn scenes
    scenes = [random_scene(seed) for seed in range(options.scenes)]
    images = [draw(scene, 96) for scene in scenes]
    with torch.inference_mode():
        features = embedded.encode(np.stack([prepare(image, embedded.preprocessing) for image in images]))
    features = features.float().clone()
    texts = [embedded.vocabulary.encode(captions(scene, seed=0)[0]) for scene in scenes]
    tokens = nn.utils.rnn.pad_sequence([torch.tensor([BOS, *text, EOS]) for text in texts], batch_first=True)

    sizes = {"vocab_size": len(embedded.vocabulary), "feature_size": embedded.encoder.feature_size}
    decoder = build_decoder("gru", {**sizes, "dropout": 0.1})
    decoder.set_feature_statistics(features)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for step in range(options.steps):
        logits = decoder(features, tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.2f}")
    captioner = Captioner(embedded.encoder, decoder.eval(), embedded.vocabulary)
    for caption, text in zip(captioner.caption(images[:3], beam=3), texts[:3], strict=True):
        print(f"{caption.text}   (learned: {embedded.vocabulary.decode(text)})")


if __name__ == "__main__":
    main()

"""A captioner that is tiny and untrained, but tells images apart, with probabilities that no rounding decides."""

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

from captionkit.images import Preprocessing, decode
from captionkit.model.captioner import Captioner
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import ShowTell
from captionkit.model.encoders import build_encoder
from captionkit.vocabulary import Vocabulary

WORDS = "a the on in with two dog cat ball tree house red blue small large left right of and runs sits near"


def patches(seed: int) -> Image.Image:
    """An image of large patches of colour."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((90, 70), Image.Resampling.NEAREST)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """The same as an encoded file."""
    buffer = io.BytesIO()
    patches(seed).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def one_captioner() -> Captioner:
    """Shared by all tests, which must not change it."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=64, resize=72)
    encoder = build_encoder("squeezenet1_1", weights="none", preprocessing=preprocessing)
    vocabulary = Vocabulary.build([WORDS], min_count=1)
    decoder = ShowTell(
        ShowTell.Config(vocab_size=len(vocabulary), feature_size=encoder.feature_size, embed_size=16, hidden_size=16)
    )
    captioner = Captioner(encoder, decoder, vocabulary, note="for tests", provenance={"data": ["none"]})
    features = captioner.encode(np.stack([decode(encoded(seed), preprocessing).pixels for seed in range(8)]))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(5)
        decoder.image.weight.div_(features.std(dim=0).clamp_min(1e-3))
        decoder.image.bias.copy_(-decoder.image.weight @ features.mean(dim=0))
    captioner.consensus = Consensus.of(features, [[[4, 5], [6]]] * len(features), pad=0)
    return captioner


@pytest.fixture
def captioner(one_captioner: Captioner) -> Captioner:
    """A copy that a test may change."""
    return copy.deepcopy(one_captioner)

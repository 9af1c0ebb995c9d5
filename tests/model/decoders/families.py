"""Small decoders of every family, some in more than one shape, and what to feed them."""

from collections.abc import Callable

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, Merge, OneShot, ParInject, ShowTell, SoftAttention, TopDown
from captionkit.vocabulary import BOS, EOS, PAD

SMALL: dict[str, Callable[..., Decoder]] = {
    "show_tell": lambda **sizes: ShowTell(**sizes, embed_size=24, hidden_size=32),
    "show_tell of 3 layers": lambda **sizes: ShowTell(**sizes, embed_size=24, hidden_size=32, layers=3, dropout=0.3),
    "merge": lambda **sizes: Merge(**sizes, embed_size=24, hidden_size=32),
    "par_inject": lambda **sizes: ParInject(**sizes, embed_size=24, hidden_size=32, position_size=8, positions=4),
    "one_shot": lambda **sizes: OneShot(**sizes, hidden_size=32, position_size=24, length=9),
    "soft_attention": lambda **sizes: SoftAttention(**sizes, embed_size=24, hidden_size=32, attention_size=16),
    "soft_attention with plain output": lambda **sizes: SoftAttention(
        **sizes, embed_size=24, hidden_size=32, attention_size=16, deep_output=False
    ),
    "top_down": lambda **sizes: TopDown(**sizes, embed_size=24, hidden_size=32, attention_size=16),
    "top_down with tied words": lambda **sizes: TopDown(
        **sizes, embed_size=24, hidden_size=32, attention_size=16, tied=True
    ),
}

WORDS, FEATURES, PLACES = 17, 12, 9


def small(kind: str) -> Decoder:
    """A decoder with the same random weights every time."""
    torch.manual_seed(0)
    return SMALL[kind](vocab_size=WORDS, feature_size=FEATURES)


def features_for(decoder: Decoder, images: int, seed: int = 0) -> Tensor:
    shape = (images, FEATURES) if decoder.wants == "pooled" else (images, PLACES, FEATURES)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def captions(count: int, seed: int = 0) -> Tensor:
    """Captions (N, 8) of 2 to 6 words, which come again within one, between markers and padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((count, 8), PAD)
    tokens[:, 0] = BOS
    for row in tokens:
        length = int(torch.randint(2, 7, (), generator=generator))
        row[1 : length + 1] = torch.randint(4, WORDS, (length,), generator=generator)
        row[length + 1] = EOS
    return tokens


def loss_of(decoder: Decoder, features: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy as the training loop counts it."""
    targets = tokens[:, 1:]
    if decoder.predicts_padding:
        targets = targets.masked_fill(targets == PAD, EOS)
    logits = decoder(features, tokens[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)


def without_dropout(decoder: Decoder) -> Decoder:
    for module in decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.LSTM):
            module.dropout = 0.0
    return decoder

"""Small decoders of every family, some in more than one shape, and what to feed them."""

from typing import Any

import torch
from torch import Tensor

from captionkit.model.decoders import Decoder, build_decoder
from captionkit.vocabulary import BOS, EOS, PAD

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "show_tell": ("show_tell", {}),
    "show_tell of 3 layers": ("show_tell", {"layers": 3, "dropout": 0.3}),
    "show_tell with a ReLU": ("show_tell", {"image_relu": True}),
    "show_tell with maxout": ("show_tell", {"maxout": True}),
    "merge": ("merge", {}),
    "merge by concatenation": ("merge", {"joined": "concat", "image_size": 20, "merged_size": 28}),
    "merge with hard gates": ("merge", {"gates": "hard_sigmoid_5"}),
    "par_inject": ("par_inject", {"position_size": 8, "positions": 4}),
    "one_shot": ("one_shot", {"position_size": 24, "length": 9}),
    "soft_attention": ("soft_attention", {"attention_size": 16}),
    "soft_attention with plain output": ("soft_attention", {"attention_size": 16, "deep_output": False}),
    "soft_attention as sgrvinod has it": (
        "soft_attention",
        {"attention_size": 16, "deep_output": False, "relu": True, "gate_each": True, "linear_start": True},
    ),
    "soft_attention as Att2in has it": (
        "soft_attention",
        {
            "attention_size": 16,
            "place_size": 20,
            "deep_output": False,
            "gated": False,
            "zero_start": True,
            "maxout": True,
        },
    ),
    "top_down": ("top_down", {"attention_size": 16}),
    "top_down as in its paper": (
        "top_down",
        {"attention_size": 16, "place_size": 20, "image_size": 28, "deep_output": False},
    ),
    "top_down with tied words": ("top_down", {"attention_size": 16, "tied": True}),
}

WORDS, FEATURES, PLACES = 17, 12, 9


def small(kind: str) -> Decoder:
    """A decoder with the same random weights every time."""
    torch.manual_seed(0)
    return build(kind, WORDS, FEATURES)


def build(kind: str, vocab_size: int, feature_size: int) -> Decoder:
    name, config = SMALL[kind]
    sizes = {"hidden_size": 32} if name == "one_shot" else {"embed_size": 24, "hidden_size": 32}
    return build_decoder(name, {"vocab_size": vocab_size, "feature_size": feature_size, **sizes, **config})


def features_for(decoder: Decoder, images: int, seed: int = 0) -> Tensor:
    shape = (images, FEATURES) if decoder.feature_kind == "pooled" else (images, PLACES, FEATURES)
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

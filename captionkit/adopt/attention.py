"""sgrvinod's captioner with attention (github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning).

A checkpoint `BEST_checkpoint_….pth.tar` holds encoder and decoder as whole modules, `WORDMAP_….json` the words. It
differs from the family `soft_attention` in a ReLU in the attention, a gate for each value and a linear start, which are
options of the family. The bias of the query is counted into the keys', and that of the energies left out: softmax
ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captionkit.adopt.captioners import Adopted, change_preprocessing, load_decoder
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.parts import Parts, choose_words
from captionkit.adopt.words import set_markers, to_rows
from captionkit.images import Preprocessing
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import SoftAttention
from captionkit.model.encoders import EncoderError, build_encoder

PREPROCESSING = Preprocessing(size=256, resize=256, interpolation="bilinear", mode="squash")
GRID = 14
"""Places on a side, to which the network's map is brought by adaptive pooling."""
_LAYERS = ("attention.encoder_att", "attention.decoder_att", "attention.full_att", "init_h", "init_c", "f_beta", "fc")
_CELL = tuple(f"decode_step.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
_KEYS = (*(f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")), *_CELL, "embedding.weight")


def is_attention(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of such a decoder."""
    return any(name.endswith("attention.encoder_att.weight") for name in tensors)


def adopt_attention(parts: Parts, markers: tuple[str, ...], preprocessing: Mapping[str, Any]) -> Adopted:
    """Put sgrvinod's captioner together.

    Args:
        markers: see `set_markers`.
        preprocessing: fields of `Preprocessing` over the project's own.

    Raises:
        AdoptError: a part is missing, or parts do not fit.
    """
    if parts.backbone is None:
        raise AdoptError(f"the encoder is missing: {parts.decoder_name or 'no file'} holds a decoder alone")
    stem = next((name for name in parts.decoder if name.endswith(_KEYS[0])), "").removesuffix(_KEYS[0])
    own = {name.removeprefix(stem): tensor.float() for name, tensor in parts.decoder.items()}
    if odd := sorted(own.keys() ^ set(_KEYS)):
        raise AdoptError(f"{parts.decoder_name} is not sgrvinod's decoder: missing or unknown are {', '.join(odd[:6])}")
    embedding, from_input, from_state = own["embedding.weight"], own[_CELL[0]], own[_CELL[1]]
    rows, embed_size = embedding.shape
    hidden, features = from_state.shape[1], from_input.shape[1] - embed_size
    name, words = choose_words(parts.words, rows, parts.decoder_name)
    set_markers(words, markers)
    order = to_rows(words, rows, rows)
    prepared = change_preprocessing(PREPROCESSING, preprocessing)
    try:
        encoder = build_encoder(parts.backbone.name, "grid", parts.backbone.tensors, prepared, grid=GRID)
    except EncoderError as err:
        raise AdoptError(f"{parts.encoder_name}: {err}") from err
    if encoder.feature_size != features:
        raise AdoptError(f"the encoder gives {encoder.feature_size} values a place, and the decoder reads {features}")
    decoder = SoftAttention(
        SoftAttention.Config(
            vocab_size=len(order.vocabulary),
            feature_size=features,
            embed_size=embed_size,
            hidden_size=hidden,
            attention_size=len(own["attention.encoder_att.bias"]),
            deep_output=False,
            relu=True,
            gate_each=True,
            linear_start=True,
        )
    )
    weight, bias = order.out(own["fc.weight"], own["fc.bias"])
    state = {
        "words.weight": order.embed(embedding),
        "begin.weight": torch.cat([own["init_h.weight"], own["init_c.weight"]]),
        "begin.bias": torch.cat([own["init_h.bias"], own["init_c.bias"]]),
        "attention.keys.weight": own["attention.encoder_att.weight"],
        "attention.keys.bias": own["attention.encoder_att.bias"] + own["attention.decoder_att.bias"],
        "attention.query.weight": own["attention.decoder_att.weight"],
        "attention.energy.weight": own["attention.full_att.weight"],
        "gate.weight": own["f_beta.weight"],
        "gate.bias": own["f_beta.bias"],
        "from_word.weight": from_input[:, :embed_size],
        "from_word.bias": own[_CELL[2]] + own[_CELL[3]],
        "from_state.weight": torch.cat([from_state, from_input[:, embed_size:]], dim=1),
        "output.weight": weight,
        "output.bias": bias,
    }
    load_decoder(decoder, state, parts.decoder_name)
    adopted = Adopted(Captioner(encoder, decoder, order.vocabulary), "sgrvinod", notes=words.notes)
    adopted.exact = [
        f"{parts.backbone.name} of {parts.encoder_name}, {GRID} × {GRID} places",
        f"decoder of {parts.decoder_name}, with its attention",
        f"{len(words.words):,} words of {name}",
    ]
    adopted.approximated = [
        "resizing: Pillow's bilinear, as scipy's imresize of the project's time; later forks resize otherwise"
    ]
    return adopted

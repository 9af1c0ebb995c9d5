"""The decoder families, by name. A new family is a file beside this one and an entry in `DECODERS`."""

from collections.abc import Mapping
from typing import Any

from captionkit.model.decoders.attention import AttentionDecoder
from captionkit.model.decoders.base import Decoder, FeatureKind, State, Tensors
from captionkit.model.decoders.grow import with_more_words
from captionkit.model.decoders.merge import Merge
from captionkit.model.decoders.one_shot import OneShot
from captionkit.model.decoders.par_inject import ParInject
from captionkit.model.decoders.recurrent import RecurrentDecoder
from captionkit.model.decoders.show_tell import ShowTell
from captionkit.model.decoders.soft_attention import SoftAttention
from captionkit.model.decoders.top_down import TopDown

__all__ = [
    "DECODERS",
    "AttentionDecoder",
    "Decoder",
    "FeatureKind",
    "Merge",
    "OneShot",
    "ParInject",
    "RecurrentDecoder",
    "ShowTell",
    "SoftAttention",
    "State",
    "Tensors",
    "TopDown",
    "build_decoder",
    "with_more_words",
]

DECODERS: dict[str, type[Decoder]] = {
    family.name: family for family in (ShowTell, Merge, ParInject, OneShot, SoftAttention, TopDown)
}


def build_decoder(name: str, config: Mapping[str, Any]) -> Decoder:
    """Build a decoder with fresh random weights.

    Args:
        name: a key of `DECODERS`.
        config: the fields of the family's `Config`, as a bundle's JSON has them; those left out take their default.

    Raises:
        ValueError: no such family, or a config that the family does not take.
    """
    if name not in DECODERS:
        raise ValueError(f"no decoder is called {name!r}; there are: {', '.join(DECODERS)}")
    family = DECODERS[name]
    try:
        return family(family.Config(**config))
    except TypeError as error:  # a missing or unknown field, or a value of the wrong type
        raise ValueError(f"decoder {name!r} cannot be built from {dict(config)!r:.500}: {error}") from error

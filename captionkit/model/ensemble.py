"""Ensembles: captioners of one vocabulary that decode together, by the mean of their probabilities.

To search, an ensemble is a captioner like any other: its features are those of all members in one row, its decoder's
state that of all decoders. Letters of shapes: see decoders/base.py, and F, the values of all features together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from captionkit.model.bundle_files import BundleError
from captionkit.model.decoders import Decoder, State, Tensors
from captionkit.model.encoders import Encoder
from captionkit.vocabulary import Vocabulary

Encode = Callable[[Tensor], Tensor]
_GEOMETRY: Final = ("size", "mode", "interpolation")


class EnsembleDecoder(Decoder):
    """Several decoders. Each reads its part of the features, and the next word has the mean of their probabilities.

    Args:
        decoders: of one vocabulary.
        sources: for each decoder, which of the encoders it reads.
        shapes: of each encoder's features, without their first axis: (D,) or (P, D).
    """

    name: ClassVar[str] = "ensemble"

    def __init__(self, decoders: Sequence[Decoder], sources: Sequence[int], shapes: Sequence[torch.Size]) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        super().__init__(Decoder.Config(vocab_size=decoders[0].vocab_size, feature_size=sum(sizes), dropout=0.0))
        self.members = nn.ModuleList(decoders)
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self._parts = [(starts[source], starts[source] + sizes[source], shapes[source]) for source in sources]
        # Of no use here: each member has its own.
        del self.feature_mean, self.feature_scale
        self.shared_memory = frozenset(  # type: ignore[misc]  # of each ensemble its own
            f"{number}.{key}" for number, member in enumerate(decoders) for key in member.shared_memory
        )
        steps = [member.max_steps for member in decoders if member.max_steps]
        self.max_steps = min(steps, default=None)

    def forward(self, features_NF: Tensor, tokens_NT: Tensor) -> Tensor:
        """See `Decoder.forward`."""
        parts = zip(self._decoders(), self._split(features_NF), strict=True)
        return self._mean([member(features, tokens_NT) for member, features in parts])

    def start(self, features_NF: Tensor) -> State:
        """The members' states, each under its number and a dot."""
        parts = zip(self._decoders(), self._split(features_NF), strict=True)
        states = [member.start(features) for member, features in parts]
        return State(_joined([state.carry for state in states]), _joined([state.memory for state in states]))

    def step(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Decoder.step`; the logits are log-probabilities in fp32."""
        logits, carries = [], []
        for number, member in enumerate(self._decoders()):
            logits_RV, after = member.step(tokens_R, State(_of(number, state.carry), _of(number, state.memory)))
            logits.append(logits_RV)
            carries.append(after.carry)
        return self._mean(logits), State(_joined(carries), state.memory)

    def _decoders(self) -> list[Decoder]:
        return [member for member in self.members if isinstance(member, Decoder)]

    def _split(self, features_NF: Tensor) -> list[Tensor]:
        return [features_NF[:, first:last].reshape(-1, *shape) for first, last, shape in self._parts]

    @staticmethod
    def _mean(logits: Sequence[Tensor]) -> Tensor:
        """The logarithm of the mean of the members' probabilities."""
        each = torch.stack([torch.log_softmax(one, dim=-1, dtype=torch.float32) for one in logits])
        return torch.logsumexp(each, dim=0) - math.log(len(logits))


class EnsembleEncoder(Encoder):
    """Several encoders of images of one geometry; their features in one row, (N, F)."""

    def __init__(self, encoders: Sequence[Encoder], shapes: Sequence[torch.Size]) -> None:
        nn.Module.__init__(self)
        self.network = nn.ModuleList(encoders)
        self._members = tuple(encoders)
        self.config = {"name": "ensemble", "output": "pooled", "layer": None}
        self.preprocessing = encoders[0].preprocessing
        self.register_buffer("scale", encoders[0].scale, persistent=False)
        self.register_buffer("shift", encoders[0].shift, persistent=False)
        self.feature_size = sum(math.prod(shape) for shape in shapes)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 (N, H, W, 3), RGB → features (N, F)."""
        return together(self._members)(pixels)


def together(encodes: Sequence[Encode]) -> Encode:
    """Several encoders as one, whose features are theirs in one row."""
    return lambda pixels: torch.cat([encode(pixels).flatten(1) for encode in encodes], dim=1)


def check_members(encoders: Sequence[Encoder], vocabularies: Sequence[Vocabulary]) -> None:
    """Raise BundleError for captioners that cannot decode together; the message says what differs."""
    words, geometry = vocabularies[0].words, encoders[0].preprocessing
    for number, (encoder, vocabulary) in enumerate(zip(encoders, vocabularies, strict=True), 1):
        if vocabulary.words != words:
            pairs = enumerate(zip(words, vocabulary.words, strict=False))
            odd = next((f"; word {n} is {one!r} and {other!r}" for n, (one, other) in pairs if one != other), "")
            raise BundleError(
                f"captioners decode together that have one vocabulary: the first has {len(words):,} words and number "
                f"{number} {len(vocabulary):,}{odd}"
            )
        own = encoder.preprocessing
        names = [*_GEOMETRY, *(["resize"] if geometry.mode != "squash" else [])]
        if odd_names := [name for name in names if getattr(own, name) != getattr(geometry, name)]:
            differ = ", ".join(f"{name} {getattr(geometry, name)} and {getattr(own, name)}" for name in odd_names)
            raise BundleError(
                f"captioners decode together that see images of one geometry (mean and deviation may differ): of the "
                f"first and of number {number}: {differ}"
            )
        if (encoder.scale.device, encoder.scale.dtype) != (encoders[0].scale.device, encoders[0].scale.dtype):
            raise BundleError("captioners decode together that are on one device, in one number format")


def distinct(encoders: Sequence[Encoder]) -> tuple[list[int], list[int]]:
    """Encoders that several captioners have in common are computed once.

    Returns:
        The places of the different ones, and for each encoder which of these it is.
    """
    chosen: list[int] = []
    sources: list[int] = []
    for place, encoder in enumerate(encoders):
        same = (number for number, other in enumerate(chosen) if _same(encoders[other], encoder))
        number = next(same, len(chosen))
        if number == len(chosen):
            chosen.append(place)
        sources.append(number)
    return chosen, sources


def ensemble_fingerprint(fingerprints: Sequence[str]) -> str:
    """The name by which tables know an ensemble, whatever the order of its members."""
    digest = blake2b(" ".join(sorted(fingerprints)).encode(), digest_size=8)
    return f"ck-{digest.hexdigest()}"


@torch.inference_mode()
def feature_shape(encoder: Encoder) -> torch.Size:
    """(D,) or (P, D), of an encoder's features."""
    size = encoder.preprocessing.size
    features: Tensor = encoder(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=encoder.scale.device))
    return features.shape[1:]


def _same(one: Encoder, other: Encoder) -> bool:
    if (one.config, one.preprocessing) != (other.config, other.preprocessing):
        return False
    first, second = one.network.state_dict(), other.network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {f"{number}.{key}": tensor for number, part in enumerate(parts) for key, tensor in part.items()}


def _of(number: int, tensors: Tensors) -> Tensors:
    prefix = f"{number}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

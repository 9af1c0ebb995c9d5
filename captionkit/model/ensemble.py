"""Ensembles: captioners of one vocabulary that decode together, by the mean of their probabilities.

To search, an ensemble is a captioner like any other: its features are those of all members in one row, its decoder's
state that of all decoders, its pixels those of all geometries that members want. Letters of shapes: see
decoders/base.py, and F, the values of all features together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor, nn

from captionkit.images import Preprocessing
from captionkit.model.bundle_files import BundleError
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import AttentionDecoder, Decoder, State, Tensors
from captionkit.model.encoders import Encoder
from captionkit.vocabulary import Vocabulary

Encode = Callable[[Tensor], Tensor]


class EnsembleDecoder(Decoder):
    """Several decoders. Each reads its part of the features, and the next word has the mean of their probabilities.

    Args:
        decoders: of one vocabulary.
        sources: for each decoder, which of the encoders it reads.
        shapes: of each encoder's features, without their first axis: (D,) or (P, D).
        geometries: of each encoder's images.

    Attributes:
        seen: the geometry of the image that `attention_maps` lie over; None where no member attends.
    """

    name: ClassVar[str] = "ensemble"

    def __init__(
        self,
        decoders: Sequence[Decoder],
        sources: Sequence[int],
        shapes: Sequence[torch.Size],
        geometries: Sequence[Preprocessing],
    ) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        super().__init__(Decoder.Config(vocab_size=decoders[0].vocab_size, feature_size=sum(sizes), dropout=0.0))
        self.members = nn.ModuleList(decoders)
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self._parts = [(starts[source], starts[source] + sizes[source], shapes[source]) for source in sources]
        views = {
            number: (geometries[source].geometry, shapes[source][0])
            for number, (decoder, source) in enumerate(zip(decoders, sources, strict=True))
            if isinstance(decoder, AttentionDecoder)
        }
        first = next(iter(views.values()), None)
        self.seen = first[0] if first else None
        self._looking = [number for number, view in views.items() if view == first]
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

    @torch.no_grad()
    def attention_maps(self, features_NF: Tensor, tokens_NT: Tensor) -> Tensor:
        """As `AttentionDecoder.attention_maps`: the mean of the members that attend to the same places of the same
        square as the first of them does. There is one (see `seen`)."""
        parts, members = self._split(features_NF), self._decoders()
        maps = []
        for number in self._looking:
            member = members[number]
            assert isinstance(member, AttentionDecoder)
            maps.append(member.attention_maps(parts[number], tokens_NT).float())
        return torch.stack(maps).mean(dim=0)

    def features_of(self, number: int, features_NF: Tensor) -> Tensor:
        """What a member reads, by its number from 0: (N, D) or (N, P, D)."""
        return self._split(features_NF)[number]

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
    """Several encoders; their features in one row, (N, F)."""

    def __init__(self, encoders: Sequence[Encoder], shapes: Sequence[torch.Size]) -> None:
        nn.Module.__init__(self)
        self.network = nn.ModuleList(encoders)
        self._members = tuple(encoders)
        self.config = {"name": "ensemble", "output": "pooled", "layer": None}
        self.preprocessing = joint_geometry(encoders)
        self.register_buffer("scale", encoders[0].scale, persistent=False)
        self.register_buffer("shift", encoders[0].shift, persistent=False)
        self.feature_size = sum(math.prod(shape) for shape in shapes)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 (N, H, W, 3), as `Preprocessing.together` has them → features (N, F)."""
        return together(self._members, self._members)(pixels)


class EnsembleConsensus:
    """The members' training images: candidates are ranked by the mean of the CIDEr that each member's expect.

    Args:
        consensuses: of the members that have one, by their numbers.
    """

    def __init__(self, consensuses: Mapping[int, Consensus], decoder: EnsembleDecoder) -> None:
        self._consensuses, self._decoder = dict(consensuses), decoder

    def check(self, neighbours: int) -> None:
        """See `Consensus.check`."""
        for consensus in self._consensuses.values():
            consensus.check(neighbours)

    def expected_cider(
        self, features: Tensor, candidates: Sequence[Sequence[Sequence[int]]], neighbours: int
    ) -> list[list[float]]:
        """See `Consensus.expected_cider`; features (N, F)."""
        each = [
            consensus.expected_cider(self._decoder.features_of(number, features), candidates, neighbours)
            for number, consensus in self._consensuses.items()
        ]
        return [[sum(values) / len(values) for values in zip(*rows, strict=True)] for rows in zip(*each, strict=True)]


def joint_geometry(encoders: Sequence[Encoder]) -> Preprocessing:
    """What images are decoded to, so that each encoder finds its own square."""
    joint = Preprocessing.together([encoder.preprocessing for encoder in encoders])
    return joint if joint.each else encoders[0].preprocessing


def together(encodes: Sequence[Encode], encoders: Sequence[Encoder]) -> Encode:
    """Several encoders as one, whose features are theirs in one row.

    Args:
        encodes: what computes each of them.
    """
    joint = joint_geometry(encoders)

    def encode(pixels: Tensor) -> Tensor:
        squares = [_square(pixels, joint, encoder.preprocessing) for encoder in encoders]
        return torch.cat([one(square).flatten(1) for one, square in zip(encodes, squares, strict=True)], dim=1)

    return encode


def _square(pixels: Tensor, joint: Preprocessing, own: Preprocessing) -> Tensor:
    """Of pixels (N, …) of all geometries those of one, (N, size, size, 3)."""
    if not joint.each:
        return pixels
    # A copy: networks are fastest on memory without gaps.
    return pixels.flatten(1)[:, joint.square(own)].reshape(-1, own.size, own.size, 3).contiguous()


def check_members(encoders: Sequence[Encoder], vocabularies: Sequence[Vocabulary]) -> None:
    """Raise BundleError for captioners that cannot decode together; the message says what differs."""
    words = vocabularies[0].words
    for number, (encoder, vocabulary) in enumerate(zip(encoders, vocabularies, strict=True), 1):
        if vocabulary.words != words:
            pairs = enumerate(zip(words, vocabulary.words, strict=False))
            odd = next((f"; word {n} is {one!r} and {other!r}" for n, (one, other) in pairs if one != other), "")
            raise BundleError(
                f"captioners decode together that have one vocabulary: the first has {len(words):,} words and number "
                f"{number} {len(vocabulary):,}{odd}"
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

"""The captioner: images in, captions out. The one thing that the rest of the house sees of the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captionkit.errors import UsageError
from captionkit.images import ImageError, Limits, Preprocessing, decode, prepare
from captionkit.model.bundle import check_fit, pack, unpack
from captionkit.model.bundle_files import BundleError, Files, fingerprint, read_files, write_files
from captionkit.model.consensus import LIKELIHOOD, Consensus
from captionkit.model.decoders import Decoder
from captionkit.model.device import pick_device, pick_dtype
from captionkit.model.encoders import Encoder
from captionkit.model.search.entry import search
from captionkit.model.search.options import SearchOptions
from captionkit.storage import Storage, StorageError, redact
from captionkit.vocabulary import BOS, EOS, PAD, SPECIAL_WORDS, UNK, Vocabulary, tokenize

ImageLike = str | os.PathLike[str] | bytes | Image.Image
"""An address, a path, encoded bytes, or a PIL image."""

_UNKNOWN = SPECIAL_WORDS[UNK]
_READERS = 8
"""Threads that fetch and decode for `caption`; with addresses, most of their time is waiting."""
_PIL_LOCK = Lock()
"""A PIL image may come twice, and reading its pixels changes it."""


class Hypothesis(NamedTuple):
    """A caption found by a search."""

    text: str
    score: float
    """Mean log-probability of its tokens, in nats; the end marker counts where the model ended it."""


@dataclass(frozen=True)
class Caption:
    """What became of one image: a caption, or the reason why there is none."""

    text: str | None
    score: float | None = None
    alternatives: tuple[Hypothesis, ...] = ()
    """The rest of the `n_best`, best first."""
    error_kind: str | None = None
    """One of `captionkit.images.ERROR_KINDS` or `captionkit.storage.STORAGE_ERROR_KINDS`, or "model_error"."""
    error: str | None = None


class Captioner:
    """An encoder, a decoder and the words between them.

    Encoder and decoder stay on their device and in their dtype, in eval mode.

    Args:
        note: What users should know of it, in half a sentence ("for drawn scenes").
        provenance: JSON-able: data, command, figures, versions.
        consensus: What was said of the training images, for `SearchOptions.consensus`.

    Raises:
        BundleError: they do not fit each other.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        vocabulary: Vocabulary,
        *,
        note: str = "",
        provenance: Mapping[str, Any] | None = None,
        consensus: Consensus | None = None,
    ) -> None:
        check_fit(encoder, decoder, vocabulary, consensus)
        self.consensus = consensus
        self.encoder, self.decoder, self.vocabulary = encoder.eval(), decoder.eval(), vocabulary
        self.note, self.provenance = note, dict(provenance or {})
        self._fingerprint: str | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The geometry that it wants images in."""
        return self.encoder.preprocessing

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.scale.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; scores are fp32 whatever it is."""
        return self.encoder.scale.dtype

    @property
    def fingerprint(self) -> str:
        """The name that tables know it by: of the bundle it was loaded from, else of the one `save` would write."""
        return self._fingerprint or fingerprint(self._pack(half=False))

    @classmethod
    def load(
        cls,
        uri: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        storage: Storage | None = None,
    ) -> Captioner:
        """Load a bundle from a folder or any address; without one, the embedded captioner for drawn scenes.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" …
            dtype: "auto" (bfloat16 where the chip computes it fast, else float32), "float32", "bfloat16", "float16".

        Raises:
            BundleError: the bundle is missing, damaged, or of a newer captionkit.
            UsageError: there is no such device or dtype.
        """
        address = None if uri is None else os.fspath(uri)
        files = read_files(address, storage or Storage())
        try:
            return cls.from_files(files, device=device, dtype=dtype)
        except BundleError as err:
            raise BundleError(f"{redact(address or 'the embedded captioner')}: {err}") from err

    @classmethod
    def from_files(cls, files: Files, *, device: str = "auto", dtype: str = "auto") -> Captioner:
        """A captioner from the files of its bundle, as `captionkit.model.bundle.read_files` reads them."""
        place = pick_device(device)
        number = pick_dtype(dtype, place)
        encoder, decoder, vocabulary, consensus, about = unpack(files)
        encoder, decoder = encoder.to(place, number), decoder.to(place, number)
        known = {name: about[name] for name in ("note", "provenance")}
        captioner = cls(encoder, decoder, vocabulary, consensus=consensus, **known)
        captioner._fingerprint = fingerprint(files)
        return captioner

    def save(self, uri: str | os.PathLike[str], *, half: bool = False, storage: Storage | None = None) -> str:
        """Write a bundle to a folder or any address; its fingerprint.

        Args:
            half: store the weights as fp16: half the size, and differences in the fourth digit.

        Raises:
            BundleError: with `half`, a weight is too large for fp16.
            StorageError: the folder cannot be written.
        """
        files = self._pack(half=half)
        write_files(files, os.fspath(uri), storage or Storage())
        return fingerprint(files)

    def _pack(self, half: bool) -> dict[str, bytes]:
        about = {"note": self.note, "provenance": self.provenance}
        return pack(self.encoder, self.decoder, self.vocabulary, self.consensus, about, half=half)

    def caption(
        self,
        images: Sequence[ImageLike],
        options: SearchOptions | None = None,
        *,
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
        batch_size: int = 64,
        limits: Limits | None = None,
        storage: Storage | None = None,
        **search_options: Any,
    ) -> list[Caption]:
        """Caption images of any sort and size, mixed as you like: `caption(["a.jpg", data], beam=5)`.

        A bad image gives a `Caption` without text, with its error, and costs no other. The next images are
        fetched and decoded while the network looks at a batch.

        Args:
            options: How to search; single options can follow by name (`beam=5`, `n_best=3`, `max_length=12`).
            banned: Words that are never said; name "<unk>", the word for all unknown ones, among them.
            prefix: Words with which each caption begins.
            batch_size: Images that the network looks at together.

        Raises:
            UsageError: an option out of range or beyond this captioner, or a word that the vocabulary lacks.
            StorageError: storage fails in a way that would fail every image alike.
        """
        if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
            raise UsageError("caption takes a list of images: caption([image])")
        try:
            chosen = replace(options or SearchOptions(), **search_options)
        except (TypeError, ValueError) as err:
            names = ", ".join(field.name for field in fields(SearchOptions))
            raise UsageError(f"{err} (search options: {names})") from err
        if batch_size < 1:
            raise UsageError(f"batch_size is at least 1, not {batch_size}")
        self.check(chosen, banned, prefix)
        storage, limits = storage or Storage(), limits or Limits()
        results: list[Caption] = []
        with ThreadPoolExecutor(_READERS, thread_name_prefix="captionkit-read") as pool:

            def open_batch(start: int) -> list[Future[NDArray[np.uint8] | Caption]]:
                return [pool.submit(self._open, image, limits, storage) for image in images[start : start + batch_size]]

            opening = open_batch(0)
            try:
                for start in range(0, len(images), batch_size):
                    batch, opening = [image.result() for image in opening], open_batch(start + batch_size)
                    pixels = [image for image in batch if not isinstance(image, Caption)]
                    found = iter(
                        self.describe(np.stack(pixels), chosen, banned=banned, prefix=prefix) if pixels else []
                    )
                    results += [image if isinstance(image, Caption) else _caption(next(found)) for image in batch]
            finally:
                pool.shutdown(cancel_futures=True)  # where one image has raised, the others need not be waited for
        return results

    def _open(self, image: ImageLike, limits: Limits, storage: Storage) -> NDArray[np.uint8] | Caption:
        try:
            if isinstance(image, Image.Image):
                with _PIL_LOCK:
                    return prepare(image, self.preprocessing)
            data = image if isinstance(image, bytes) else storage.read(os.fspath(image))
            return decode(data, self.preprocessing, limits).pixels
        except (ImageError, StorageError) as err:
            if isinstance(err, StorageError) and err.fatal:
                raise
            return Caption(None, error_kind=err.kind, error=str(err))

    @torch.inference_mode()
    def describe(
        self,
        pixels: NDArray[np.uint8],
        options: SearchOptions,
        *,
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
    ) -> list[list[Hypothesis]]:
        """Caption a batch of pictures at the captioner's own geometry.

        A picture's captions do not depend on the others; when sampled for, they depend on its pixels and the seed.

        Args:
            pixels: (N, size, size, 3) uint8, RGB, as `captionkit.images.decode` makes them for `preprocessing`.
            options, banned, prefix: as for `caption`.

        Returns:
            For each picture its `n_best` captions, best first, at least one. A model that says nothing, as its
            numbers overflow or `min_length=0` lets it, gives the empty text.

        Raises:
            UsageError: `banned` and `prefix` leave nothing to say, or name words that the vocabulary lacks; a
                consensus is asked of a captioner that has no training images' captions.
            ValueError: pixels of another shape or dtype.
        """
        features = self.encode(pixels)
        keys = None
        if options.method == "sample":
            keys = torch.tensor([crc32(picture) for picture in np.ascontiguousarray(pixels)], dtype=torch.int64)
        return self.describe_features(features, options, banned=banned, prefix=prefix, keys=keys)

    @torch.inference_mode()
    def describe_features(
        self,
        features: Tensor,
        options: SearchOptions,
        *,
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
        keys: Tensor | None = None,
    ) -> list[list[Hypothesis]]:
        """As `describe`, from what `encode` has made of the pictures: for many searches over the same ones.

        Args:
            features: (N, D) or (N, P, D).
            keys: (N,) int64, which pictures these are, to sample by.

        Raises:
            UsageError: as `describe`.
        """
        self.check(options, banned, prefix)
        wanted = options.n_best
        if options.consensus and options.method == "beam":
            options = replace(options, n_best=options.beam)  # the whole beam is heard
        try:
            found = search(
                self.decoder,
                features,
                options,
                bos=BOS,
                eos=EOS,
                pad=PAD,
                banned=[self.vocabulary.id(word) for word in banned],
                prefix=self.vocabulary.encode(prefix),
                keys=keys,
            )
        except ValueError as err:
            raise UsageError(str(err)) from err
        columns = (found.tokens, found.lengths, found.logprobs, found.ended)
        rows = [
            [
                _Found(ids[:length], logprob, ended)
                for place, (ids, length, logprob, ended) in enumerate(zip(*row, strict=True))
                if logprob > -np.inf or place == 0
            ]
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
        if self.consensus and options.consensus:
            heard = self.consensus.agreement(features, [[one.ids for one in row] for row in rows], options.consensus)
            rows = [_ranked(row, agreement)[:wanted] for row, agreement in zip(rows, heard, strict=True)]
        return [[Hypothesis(self.vocabulary.decode(one.ids), one.logprob) for one in row] for row in rows]

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The encoder's features of pictures at its own geometry, (N, D) or (N, P, D), on the captioner's device.

        Raises:
            ValueError: pixels of another shape or dtype than (N, size, size, 3) uint8.
        """
        size = self.preprocessing.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pictures are uint8 (N, {size}, {size}, 3) here, not {pixels.dtype} {pixels.shape}")
        # Through memory of our own: Ray's is read-only, which torch warns of, and pinned memory copies faster.
        own = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        own.numpy()[...] = pixels
        features: Tensor = self.encoder(own.to(self.device, non_blocking=True))
        return features

    def check(self, options: SearchOptions, banned: Sequence[str], prefix: str) -> None:
        """Raise UsageError for what this captioner cannot do: words that its vocabulary lacks, which could be neither
        banned nor said; a consensus without the training images' captions, or of more than can be asked."""
        if options.consensus:
            if not self.consensus:
                raise UsageError(
                    f"consensus={options.consensus}: this bundle does not hold the training images' captions; "
                    "train it with --neighbours (the same command again adds them), or leave --consensus out"
                )
            try:
                self.consensus.check(options.consensus)
            except ValueError as err:
                raise UsageError(f"consensus={options.consensus}: {err}") from err
        for what, words in (("banned", banned), ("prefix", tokenize(prefix))):
            unknown = [word for word in words if word not in self.vocabulary]
            if unknown:
                raise UsageError(f"{what}: the captioner does not know {', '.join(map(repr, unknown))}")


class _Found(NamedTuple):
    """A caption as a search gives it."""

    ids: list[int]
    logprob: float
    ended: bool


def _ranked(found: list[_Found], agreement: list[float]) -> list[_Found]:
    """By agreement and likelihood; captions that were cut stay behind those that ended, and equals in their order."""
    scores = [heard + LIKELIHOOD * one.logprob for one, heard in zip(found, agreement, strict=True)]
    order = sorted(range(len(found)), key=lambda place: (not found[place].ended, -scores[place], place))
    return [found[place] for place in order]


def _caption(found: list[Hypothesis]) -> Caption:
    best, *others = found
    if not best.text:
        return Caption(None, error_kind="model_error", error="the captioner said nothing")
    return Caption(best.text, best.score, tuple(other for other in others if other.text))

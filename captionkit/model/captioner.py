"""The captioner: images in, captions out. Other packages reach the network through it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import count
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captionkit.drawing.comparison import ComparedImage, Comparison, Told
from captionkit.errors import UsageError
from captionkit.images import Limits, Preprocessing
from captionkit.model.bundle import check_fit, pack, read_calibration, unpack
from captionkit.model.bundle_files import BundleError, Files, fingerprint, read_files, write_files
from captionkit.model.calibration import Calibration
from captionkit.model.captions import Caption, Hypothesis, read_candidates, rerank, to_caption
from captionkit.model.comparing import add_figures, look_at, name_of
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import AttentionDecoder, Decoder
from captionkit.model.device import pick_device, pick_dtype
from captionkit.model.encoders import Encoder
from captionkit.model.engines import Encode, Engine, make_encode
from captionkit.model.ensemble import (
    EnsembleConsensus,
    EnsembleDecoder,
    EnsembleEncoder,
    check_members,
    distinct,
    ensemble_fingerprint,
    feature_shape,
    together,
)
from captionkit.model.image_reader import ImageLike, Pixels, read_batches
from captionkit.model.search.options import SearchOptions, beam_searches
from captionkit.model.search.search import search
from captionkit.storage import Storage, redact
from captionkit.vocabulary import BOS, EOS, PAD, SPECIAL_WORDS, UNK, Vocabulary, tokenize

__all__ = ["Caption", "Captioner", "Hypothesis", "ImageLike"]

_UNKNOWN = SPECIAL_WORDS[UNK]


class Captioner:
    """An encoder, a decoder and their vocabulary.

    Encoder and decoder stay on their device and in their dtype, in eval mode.

    Args:
        note: half a sentence for users on what it is for ("for drawn scenes").
        provenance: JSON-able: data, command, figures, versions.
        consensus: the training images' captions, for `SearchOptions.consensus`.
        calibration: how sure its captions are, by their scores.
        loaded_fingerprint: of the bundle that the parts were loaded from.
        encode: computes the encoder, where there is something faster than the encoder itself.

    Attributes:
        engine: what computes the encoder, in a few words for the log.

    Raises:
        BundleError: the parts do not fit each other.
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
        calibration: Calibration | None = None,
        loaded_fingerprint: str | None = None,
        encode: tuple[Encode, str] | None = None,
    ) -> None:
        check_fit(encoder, decoder, vocabulary, consensus)
        self.consensus: Consensus | EnsembleConsensus | None = consensus
        self.calibration = calibration
        self.encoder, self.decoder, self.vocabulary = encoder.eval(), decoder.eval(), vocabulary
        self.note, self.provenance = note, dict(provenance or {})
        self._loaded_fingerprint = loaded_fingerprint
        self._encode: Encode = encode[0] if encode else self.encoder
        self.engine = encode[1] if encode else "torch"

    @property
    def preprocessing(self) -> Preprocessing:
        """The geometry and normalisation of its images."""
        return self.encoder.preprocessing

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.encoder.scale.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format that it computes in; scores are always fp32."""
        return self.encoder.scale.dtype

    @property
    def fingerprint(self) -> str:
        """Its name in caption tables: that of the bundle it was loaded from, else of the one `save` would write."""
        return self._loaded_fingerprint or fingerprint(self._pack(half=False))

    @classmethod
    def load(
        cls,
        uri: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        engine: Engine | None = "torch",
        storage: Storage | None = None,
    ) -> Captioner:
        """Load a bundle from a folder or any address. Default: the embedded captioner for drawn scenes.

        Of several addresses the captioners decode together, as `ensemble` describes.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" …
            dtype: "auto" (bfloat16 where the device computes it fast, else float32), "float32", "bfloat16", or on a
                GPU "float16".
            engine: what computes the encoder: "torch", "openvino" (for CPUs, with `captionkit[openvino]`; it takes
                seconds to start), or "auto", which is OpenVINO where it is installed. None spares the preparation
                where few images are captioned, or none.

        Raises:
            BundleError: the bundle is missing, damaged, or of a newer captionkit; or several do not fit each other.
            UsageError: there is no such device, dtype or engine.
        """
        several: list[str | None] = [None]
        if uri is not None:
            named = [uri] if isinstance(uri, (str, os.PathLike)) else uri
            several = [*(os.fspath(one) for one in named)] or [None]
        members = []
        for address in several:
            files = read_files(address, storage or Storage())
            try:
                members.append(cls.from_files(files, device=device, dtype=dtype, engine=engine))
            except BundleError as err:
                raise BundleError(f"{redact(address or 'the embedded captioner')}: {err}") from err
        return cls.ensemble(members)

    @classmethod
    def ensemble(cls, members: Sequence[Captioner]) -> Captioner:
        """Captioners that decode together: the next word has the mean of their probabilities. One is itself.

        They have one vocabulary. Each sees images as it was trained to; where geometries differ, an image is decoded
        once for each. An encoder that several have in common is computed once. A consensus is the mean of those of the
        members that have one. An ensemble is not a bundle: it is loaded from its members' bundles.

        Raises:
            BundleError: they do not fit each other.
        """
        if len(members) == 1:
            return members[0]
        if not members:
            raise BundleError("an ensemble has at least one captioner")
        members = sorted(members, key=lambda member: member.fingerprint)  # the same captions in whatever order
        encoders = [member.encoder for member in members]
        check_members(encoders, [member.vocabulary for member in members])
        chosen, sources = distinct(encoders)
        shapes = [feature_shape(encoders[place]) for place in chosen]
        names = [member.fingerprint for member in members]
        notes = dict.fromkeys(member.note for member in members if member.note)
        eyes = [encoders[place] for place in chosen]
        decoder = EnsembleDecoder(
            [member.decoder for member in members], sources, shapes, [one.preprocessing for one in eyes]
        )
        made = cls(
            EnsembleEncoder(eyes, shapes),
            decoder,
            members[0].vocabulary,
            note=f"{len(members)} captioners together" + (f": {'; '.join(notes)}" if notes else ""),
            provenance={"ensemble": names},
            loaded_fingerprint=ensemble_fingerprint(names),
            encode=(together([members[place]._encode for place in chosen], eyes), members[0].engine),
        )
        known = {number: one.consensus for number, one in enumerate(members) if isinstance(one.consensus, Consensus)}
        made.consensus = EnsembleConsensus(known, decoder) if known else None
        return made

    @classmethod
    def from_files(
        cls,
        files: Files | Sequence[Files],
        *,
        device: str = "auto",
        dtype: str = "auto",
        engine: Engine | None = "torch",
    ) -> Captioner:
        """A captioner from a bundle's files, as `captionkit.model.bundle_files.read_files` gives them, or an ensemble
        from those of several; else as `load`."""
        if not isinstance(files, Mapping):
            return cls.ensemble([cls.from_files(one, device=device, dtype=dtype, engine=engine) for one in files])
        on_device = pick_device(device)
        in_dtype = pick_dtype(dtype, on_device)
        encoder, decoder, vocabulary, consensus, description = unpack(files)
        name = fingerprint(files)
        # The encoder itself stays as it is, to be saved and trained.
        encode = None if engine is None else make_encode(encoder, on_device, in_dtype, engine, name)
        return cls(
            encoder.to(on_device, in_dtype),
            decoder.to(on_device).to_dtype(in_dtype),
            vocabulary,
            note=description["note"],
            provenance=description["provenance"],
            consensus=consensus,
            calibration=read_calibration(description),
            loaded_fingerprint=name,
            encode=encode,
        )

    def save(self, uri: str | os.PathLike[str], *, half: bool = False, storage: Storage | None = None) -> str:
        """Write a bundle to a folder or any address, and return its fingerprint.

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
        if isinstance(self.decoder, EnsembleDecoder):
            raise BundleError("an ensemble is not one bundle: save its members, and load them together")
        about = {"note": self.note, "provenance": self.provenance}
        assert not isinstance(self.consensus, EnsembleConsensus)  # which ensembles alone have
        parts = (self.encoder, self.decoder, self.vocabulary, self.consensus)
        return pack(*parts, about, half=half, calibration=self.calibration)

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
        """Caption images of any kind and size, in any mixture: `caption(["a.jpg", data], beam=5)`.

        A bad image gives a `Caption` with an error and no text, and costs no other image. While the network computes
        a batch, the next one is fetched and decoded.

        Args:
            options: how to search; single options can follow by name (`beam=5`, `n_best=3`, `max_length=12`).
            banned: words that are not generated. Keep "<unk>" among them, the word for all unknown ones.
            prefix: words with which each caption begins.
            batch_size: images that the network computes together.

        Raises:
            UsageError: an option out of range or beyond this captioner, or a word that the vocabulary lacks.
            StorageError: storage fails in a way that would fail every image.
        """
        if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
            raise UsageError("caption takes a list of images: caption([image])")
        chosen = _replace_options(options or SearchOptions(), search_options)
        if batch_size < 1:
            raise UsageError(f"batch_size is at least 1, not {batch_size}")
        self.check(chosen, banned, prefix)
        captions: list[Caption] = []
        for batch in read_batches(images, self.preprocessing, batch_size, storage, limits):
            pixels = [image for image in batch if isinstance(image, np.ndarray)]
            hypotheses = iter(
                self.caption_pixels(np.stack(pixels), chosen, banned=banned, prefix=prefix) if pixels else []
            )
            captions += [
                to_caption(next(hypotheses) if isinstance(image, np.ndarray) else image, self.calibration)
                for image in batch
            ]
        return captions

    def show(
        self,
        images: Sequence[ImageLike],
        options: SearchOptions | None = None,
        *,
        beams: Sequence[int] = (1, 3, 5, 7, 10),
        references: Sequence[Sequence[str]] = (),
        names: Sequence[str] = (),
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
        batch_size: int = 16,
        limits: Limits | None = None,
        storage: Storage | None = None,
        **search_options: Any,
    ) -> Comparison:
        """Caption images by beam searches of several widths, to look at them beside each other.

        A notebook shows the result; `print` gives it as text, `save` writes a page or a picture. Where the decoder
        attends, it shows where it looked for each word.

        Args:
            options: how to search apart from the width; single options can follow by name, as for `caption`.
            beams: widths; 1 is greedy search.
            references: people's captions of each image, in the images' order (none where there are none). BLEU is
                computed by pycocoevalcap.
            names: of the images, in their order. Default: their addresses, or numbers.
            banned, prefix, batch_size: as for `caption`.

        Raises:
            UsageError: as `caption`; or names or references are not as many as images.
            StorageError: storage fails in a way that would fail every image.
        """
        if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
            raise UsageError("show takes a list of images: show([image])")
        for what, several in (("references", references), ("names", names)):
            if several and len(several) != len(images):
                raise UsageError(f"{what} are one for each image: there are {len(several)} for {len(images)}")
        try:
            searches = beam_searches(_replace_options(options or SearchOptions(), search_options), beams)
        except ValueError as err:
            raise UsageError(f"beams: {err}") from err
        for search_of_width in searches.values():
            self.check(search_of_width, banned, prefix)
        named = [(name, image) for name, image in zip(names or map(name_of, images, count(1)), images, strict=True)]
        storage, limits, shown = storage or Storage(), limits or Limits(), list[ComparedImage]()
        for start in range(0, len(named), max(1, batch_size)):
            batch = look_at(named[start : start + max(1, batch_size)], self.preprocessing, storage, limits)
            shown += self._told(batch, searches, banned, prefix)
        if references:
            shown = [replace(image, references=tuple(of)) for image, of in zip(shown, references, strict=True)]
        shown, figures, note = add_figures(shown)
        title = f"{self.note} ({self.fingerprint})" if self.note else self.fingerprint
        return Comparison(title, list(searches), shown, figures, note)

    def _told(
        self,
        images: Sequence[ComparedImage],
        searches: Mapping[str, SearchOptions],
        banned: Sequence[str],
        prefix: str,
    ) -> list[ComparedImage]:
        """A batch of images with the captions of each search, and where it looked for their words."""
        read = [number for number, image in enumerate(images) if image.pixels is not None]
        if not read:
            return list(images)
        features = self.encode(np.stack([pixels for image in images if (pixels := image.pixels) is not None]))
        told: dict[int, list[Told]] = {number: [] for number in read}
        for name, options in searches.items():
            hypotheses = self.caption_features(features, options, banned=banned, prefix=prefix)
            for row, (number, (best, *_)) in enumerate(zip(read, hypotheses, strict=True)):
                looks = self.attends and best.text
                maps = self.attention(features[row : row + 1], best.text) if looks else None
                told[number].append(Told(name, best.text, best.score if best.text else None, maps=maps))
        # The pixels serve to draw attention alone; a page of many images would keep them all.
        return [
            replace(
                image,
                captions=tuple(told.get(number, ())),
                pixels=None if image.pixels is None or not self.attends else self.seen(image.pixels),
            )
            for number, image in enumerate(images)
        ]

    @torch.inference_mode()
    def caption_pixels(
        self,
        pixels: Pixels,
        options: SearchOptions,
        *,
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
    ) -> list[list[Hypothesis]]:
        """Caption a batch of images at the captioner's own geometry.

        An image's captions do not depend on the other images; samples depend on its pixels and the seed.

        Args:
            pixels: (N, size, size, 3) uint8, RGB, as `captionkit.images.decode` makes them for `preprocessing`.
            options, banned, prefix: as for `caption`.

        Returns:
            For each image its `n_best` captions, best first, at least one. Where the model generates no words, as its
            numbers overflow or `min_length=0` allows it, the text is empty.

        Raises:
            UsageError: `banned` and `prefix` leave no word, or name words that the vocabulary lacks; a consensus is
                asked of a captioner without the training images' captions.
            ValueError: pixels of another shape or dtype.
        """
        features = self.encode(pixels)
        keys_N = None
        if options.method == "sample":
            keys_N = torch.tensor([crc32(image) for image in np.ascontiguousarray(pixels)], dtype=torch.int64)
        return self.caption_features(features, options, banned=banned, prefix=prefix, keys=keys_N)

    @torch.inference_mode()
    def caption_features(
        self,
        features: Tensor,
        options: SearchOptions,
        *,
        banned: Sequence[str] = (_UNKNOWN,),
        prefix: str = "",
        keys: Tensor | None = None,
    ) -> list[list[Hypothesis]]:
        """As `caption_pixels`, from the features that `encode` gives: for several searches over the same images.

        Args:
            features: (N, D) or (N, P, D).
            keys: (N,) int64, for sampling: an image with another key draws other captions.

        Raises:
            UsageError: as `caption_pixels`.
        """
        self.check(options, banned, prefix, images=False)
        n_best = options.n_best
        if options.consensus and options.method == "beam":
            options = replace(options, n_best=options.beam)  # the consensus ranks all of the beam
        try:
            result = search(
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
        candidates = read_candidates(result)
        if self.consensus and options.consensus:
            token_ids = [[candidate.ids for candidate in row] for row in candidates]
            ciders = self.consensus.expected_cider(features, token_ids, options.consensus)
            candidates = [rerank(row, of_row)[:n_best] for row, of_row in zip(candidates, ciders, strict=True)]
        decode = self.vocabulary.decode
        return [[Hypothesis(decode(candidate.ids), candidate.logprob) for candidate in row] for row in candidates]

    @torch.inference_mode()
    def encode(self, pixels: Pixels) -> Tensor:
        """The encoder's features of images at its own geometry, (N, D) or (N, P, D), on the captioner's device.

        Raises:
            ValueError: pixels of another shape or dtype than (N, size, size, 3) uint8.
        """
        size = self.preprocessing.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pixels are uint8 (N, {size}, {size}, 3) here, not {pixels.dtype} {pixels.shape}")
        # A copy: Ray's memory is read-only, which torch warns of, and pinned memory moves to a GPU faster.
        own = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        own.numpy()[...] = pixels
        features: Tensor = self._encode(own.to(self.device, non_blocking=True))
        return features

    @property
    def attends(self) -> bool:
        """Whether its decoder looks at places of the image; of an ensemble, whether a member's does."""
        if isinstance(self.decoder, EnsembleDecoder):
            return self.decoder.seen is not None
        return isinstance(self.decoder, AttentionDecoder)

    def seen(self, pixels: Pixels) -> Pixels:
        """The picture (size, size, 3) that `attention` lies over, of an image at the captioner's geometry. It is the
        image itself, but for ensembles whose members want different geometries."""
        geometry = self.decoder.seen if isinstance(self.decoder, EnsembleDecoder) else None
        if geometry is None or not self.preprocessing.each:
            return pixels
        return pixels.reshape(-1)[self.preprocessing.square(geometry)].reshape(geometry.size, geometry.size, 3)

    @torch.inference_mode()
    def attention(self, features: Tensor, text: str) -> NDArray[np.float32]:
        """Where it looks for each of the T words of a caption of its own: (T, G, G), each summing to 1.

        Of an ensemble the mean of the members that attend, so far as they do so to the same places as the first.

        Args:
            features: (1, P, D), of the image; P = G × G. Of an ensemble (1, F).

        Raises:
            UsageError: it does not attend.
        """
        if not self.attends or not isinstance(self.decoder, (AttentionDecoder, EnsembleDecoder)):
            raise UsageError(f"this captioner's decoder, {self.decoder.name}, has no attention")
        ids = [self.vocabulary.id(word) for word in text.split()]
        weights = self.decoder.attention_maps(features, torch.tensor([[BOS, *ids]], device=self.device))[0, : len(ids)]
        side = math.isqrt(weights.shape[1])  # grids are square
        maps: NDArray[np.float32] = weights.float().cpu().view(len(ids), side, side).numpy()
        return maps

    def check(self, options: SearchOptions, banned: Sequence[str], prefix: str, *, images: bool = True) -> None:
        """Raise UsageError for what this captioner cannot do: images without an encoder (unless there are only
        features); words that its vocabulary lacks, which could neither be banned nor generated; a consensus without the
        training images' captions, or of too many images."""
        if images:
            self.encoder.check()
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


def _replace_options(options: SearchOptions, changes: Mapping[str, Any]) -> SearchOptions:
    try:
        return replace(options, **changes)
    except (TypeError, ValueError) as err:
        names = ", ".join(field.name for field in fields(SearchOptions))
        raise UsageError(f"{err} (search options: {names})") from err

"""Bundles: a captioner as a folder of three files, and no pickle among them.

    captioner.json        encoder, decoder, preprocessing, where it came from; with a calibration, how sure its
                          captions are
    vocabulary.json       the words
    weights.safetensors   tensors named `encoder.…` and `decoder.…`; where the training images' captions
                          travel with it, also `consensus.features`, `consensus.captions`, `consensus.counts`

A bundle is known by its fingerprint, a hash of these files' bytes; it stands in every row of a caption table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captionkit.images import Preprocessing
from captionkit.lfs import LFS_POINTER, is_lfs_pointer
from captionkit.model.bundle_files import CALIBRATION, DESCRIPTION, VOCABULARY, WEIGHTS, BundleError, Files
from captionkit.model.calibration import Calibration
from captionkit.model.consensus import Consensus
from captionkit.model.decoders import Decoder, build_decoder
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.storage import Storage, redact
from captionkit.vocabulary import PAD, Vocabulary, VocabularyError

FORMAT = 1
"""The version of the layout of `captioner.json`."""

_PARTS: dict[str, type] = {
    "encoder": dict,
    "decoder": dict,
    "preprocessing": dict,
    "note": str,
    "provenance": dict,
}
"""What `captioner.json` holds beside "format"."""
_CONSENSUS = ("features", "captions", "counts")
"""The tensors of a `Consensus`."""


def read_weights(uri: str, storage: Storage) -> dict[str, Tensor]:
    """A network's tensors by name: safetensors, or a PyTorch file (`.pth`) of nothing but tensors.

    Raises:
        StorageError: the file cannot be read.
        BundleError: it is neither, or damaged. Pickled code is not run.
    """
    data = storage.read(uri)
    if is_lfs_pointer(data):
        raise BundleError(f"{redact(uri)} is {LFS_POINTER}")
    try:
        if data[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_tensors(data)
        tensors = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    # What a damaged pickle raises depends on where it is damaged. PyTorch's own words advise to run the code.
    except Exception as err:
        raise BundleError(
            f"{redact(uri)} is damaged, or holds more than tensors ({type(err).__name__}); "
            "captionkit reads safetensors, and PyTorch files made with torch.save(model.state_dict())"
        ) from err
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise BundleError(f"{redact(uri)} holds no state dict, which has a tensor for every name")
    return dict(tensors)


def pack(
    encoder: Encoder,
    decoder: Decoder,
    vocabulary: Vocabulary,
    consensus: Consensus | None,
    about: Mapping[str, Any],
    *,
    half: bool,
    calibration: Calibration | None = None,
) -> dict[str, bytes]:
    """A captioner's bundle, as files; the same captioner gives the same bytes.

    Args:
        about: JSON-able "note" and "provenance", kept under these names.
        half: store fp32 tensors as fp16, half the size.

    Raises:
        BundleError: with `half`, a value is too large for fp16.
    """
    description = {
        "format": FORMAT,
        "encoder": encoder.config,
        "preprocessing": encoder.preprocessing.to_json(),
        "decoder": {"name": decoder.name, "config": asdict(decoder.config)},
        **about,
        **({CALIBRATION: calibration.to_json()} if calibration else {}),
    }
    # The encoder's under torchvision's own names.
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.network.state_dict().items()}
    tensors |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    if consensus:
        tensors |= {f"consensus.{name}": getattr(consensus, name) for name in _CONSENSUS}
    for name, tensor in tensors.items():
        stored = tensor.detach().cpu().contiguous()
        if half and stored.dtype == torch.float32:
            smaller = stored.to(torch.float16)
            if not torch.equal(smaller.isfinite(), stored.isfinite()):
                raise BundleError(f"{name} holds values up to {stored.abs().max():.3g}, too large for half precision")
            stored = smaller
        tensors[name] = stored
    return {
        DESCRIPTION: (json.dumps(description, indent=2, sort_keys=True) + "\n").encode(),
        VOCABULARY: vocabulary.to_json().encode(),
        WEIGHTS: save_tensors(tensors),
    }


def unpack(files: Files) -> tuple[Encoder, Decoder, Vocabulary, Consensus | None, dict[str, Any]]:
    """The parts in a bundle's files: the network in fp32 and eval mode, the vocabulary, the training images' captions
    if the bundle has them, and `captioner.json`.

    Raises:
        BundleError: a file is damaged, of a newer captionkit, or does not fit the others.
    """
    description = _description(files[DESCRIPTION])
    try:
        vocabulary = Vocabulary.from_json(files[VOCABULARY])
    except VocabularyError as err:
        raise BundleError(f"{VOCABULARY}: {err}") from err
    tensors = _tensors(files[WEIGHTS])
    encoder = _encoder(description, tensors["encoder"])
    decoder = _decoder(description, tensors["decoder"])
    consensus = _consensus(tensors["consensus"])
    check_fit(encoder, decoder, vocabulary, consensus)
    return encoder, decoder, vocabulary, consensus, description


def check_fit(encoder: Encoder, decoder: Decoder, vocabulary: Vocabulary, consensus: Consensus | None) -> None:
    """Raise BundleError for parts that are not of one captioner."""
    if decoder.vocab_size != len(vocabulary):
        raise BundleError(
            f"the vocabulary has {len(vocabulary)} words and the decoder {decoder.vocab_size}: they belong to "
            "different captioners"
        )
    if (decoder.feature_kind, decoder.feature_size) != (encoder.config["output"], encoder.feature_size):
        raise BundleError(
            f"the encoder gives {encoder.config['output']} features of {encoder.feature_size} values, "
            f"the decoder reads {decoder.feature_kind} ones of {decoder.feature_size}"
        )
    if consensus and consensus.features.shape[1] != encoder.feature_size:
        raise BundleError(
            f"the encoder gives features of {encoder.feature_size} values, and the training images have some of "
            f"{consensus.features.shape[1]}: they belong to different captioners"
        )
    if consensus and not 0 <= int(consensus.captions.min()) <= int(consensus.captions.max()) < len(vocabulary):
        raise BundleError("the training images' captions have words that the vocabulary lacks")


def _description(data: bytes) -> dict[str, Any]:
    try:
        description = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{DESCRIPTION} is not JSON ({err}); copy the bundle anew") from err
    if not isinstance(description, dict) or "format" not in description:
        raise BundleError(f'{DESCRIPTION} does not describe a captioner: it has no "format"')
    if description["format"] != FORMAT:
        raise BundleError(
            f"{DESCRIPTION} has format {description['format']!r:.50}; this captionkit reads {FORMAT}: update it"
        )
    description = {"note": "", "provenance": {}, **description}
    for name, kind in _PARTS.items():
        if not isinstance(description.get(name), kind):
            raise BundleError(f'{DESCRIPTION}: "{name}" is missing or of the wrong kind; copy the bundle anew')
    return description


def read_calibration(description: Mapping[str, Any]) -> Calibration | None:
    """The calibration in `captioner.json`, if it has one.

    Raises:
        BundleError: it is damaged.
    """
    if CALIBRATION not in description:
        return None
    try:
        return Calibration.from_json(description[CALIBRATION])
    except ValueError as err:
        raise BundleError(f"{DESCRIPTION}: {CALIBRATION}: {err}; copy the bundle anew") from err


def _tensors(data: bytes) -> dict[str, dict[str, Tensor]]:
    """The tensors by part and by name within it."""
    try:
        tensors = load_tensors(data)
    except SafetensorError as err:
        raise BundleError(f"{WEIGHTS} is cut off or damaged ({err}); copy the bundle anew") from err
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}, "consensus": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise BundleError(f"{WEIGHTS} holds a tensor that is none of a captioner's: {key}")
        parts[part][name] = tensor
    return parts


def _encoder(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Encoder:
    try:
        preprocessing = Preprocessing.from_json(description["preprocessing"])
        encoder = build_encoder(**description["encoder"], weights=tensors, preprocessing=preprocessing)
    except (TypeError, ValueError, RuntimeError) as err:  # an EncoderError is a ValueError
        raise BundleError(f"{DESCRIPTION} and {WEIGHTS} give no encoder: {err}") from err
    # `build_encoder` ignores a classifier's tensors; a bundle has none.
    _check_names("encoder", encoder.network.state_dict(), tensors)
    return encoder


def _consensus(tensors: Mapping[str, Tensor]) -> Consensus | None:
    if not tensors:
        return None
    _check_names("consensus", dict.fromkeys(_CONSENSUS), tensors)
    try:
        return Consensus(**tensors, pad=PAD)
    except ValueError as err:
        raise BundleError(f"{WEIGHTS}: {err}; copy the bundle anew") from err


class _SkipInit(TorchFunctionMode):
    """Skips the drawing of random weights: on "meta", PyTorch would import its compiler for it, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        is_init = getattr(func, "__module__", "") == "torch.nn.init"
        return (kwargs or {}).get("tensor", *args[:1]) if is_init else func(*args, **(kwargs or {}))


def _decoder(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Decoder:
    name, config = description["decoder"].get("name"), description["decoder"].get("config")
    try:
        with torch.device("meta"), _SkipInit():  # check the sizes before memory is allocated for them
            own = build_decoder(name, config).state_dict()
    except (TypeError, ValueError, RuntimeError) as err:
        raise BundleError(f"{DESCRIPTION} gives no decoder: {err}") from err
    _check_names("decoder", own, tensors)
    for key, tensor in own.items():
        if tensors[key].shape != tensor.shape:
            shapes = f"{tuple(tensors[key].shape)}, not {tuple(tensor.shape)}"
            raise BundleError(f"{WEIGHTS} does not fit the decoder of {DESCRIPTION}: {key} is {shapes}")
    decoder = build_decoder(name, config).eval()
    decoder.load_state_dict(tensors)
    return decoder


def _check_names(part: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    wrong = {"lacks": sorted(own.keys() - given.keys()), "also holds": sorted(given.keys() - own.keys())}
    faults = [f"{what} {len(names)} ({', '.join(names[:3])})" for what, names in wrong.items() if names]
    if faults:
        raise BundleError(
            f"{WEIGHTS} does not fit the {part} of {DESCRIPTION}: of its tensors it {' and '.join(faults)}"
        )

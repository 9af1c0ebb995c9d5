"""`adopt`: from files to a bundle. It reads from top to bottom: look, say, convert, try, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from captionkit.adopt.attention import adopt_attention, is_attention
from captionkit.adopt.captioners import Adopted, adopt_show_tell, read_preprocessing
from captionkit.adopt.contents import is_other, look
from captionkit.adopt.errors import AdoptError, EncoderMissingError
from captionkit.adopt.features import Features, similarity, try_features
from captionkit.adopt.given import Given
from captionkit.adopt.im2txt import adopt_im2txt, is_im2txt
from captionkit.adopt.keras_merge import adopt_merge, is_keras
from captionkit.adopt.options import AdoptOptions
from captionkit.adopt.parts import sort_parts
from captionkit.adopt.ruotianluo import adopt_ruotianluo, is_ruotianluo
from captionkit.adopt.tensorflow_files import SAVED_MODEL, head_of, latest, read_tensorflow
from captionkit.adopt.trial import SCENES, Trial, drawn_scenes, try_out
from captionkit.inputs.named import require
from captionkit.model.captioner import Captioner
from captionkit.model.encoders import NO_NETWORK
from captionkit.model.image_reader import ImageLike
from captionkit.storage import Storage, redact

_HEAD = 64
"""Bytes by which a file in a folder is known to be none of a captioner's."""
_SHOWN = 5
"""Captions that are printed."""
_PASSED_OVER = (
    *(
        ".py",
        ".ipynb",
        ".md",
        ".txt",
        ".csv",
        ".tsv",
        ".html",
        ".yml",
        ".yaml",
        ".cfg",
        ".toml",
        ".lock",
        ".sh",
        ".log",
        ".pbtxt",
        ".meta",
        "/checkpoint",
    ),
    *(".mp4", ".wav", ".jpg", ".jpeg", ".png", ".gif", ".webp"),
)
"""Endings of what lies beside models in a folder; a file that is named is read whatever its ending."""


@dataclass
class Gathered:
    """What was found at the addresses given.

    Attributes:
        given: files that hold a part of a captioner.
        problems: files in folders that cannot be read, with reasons.
        passed_over: files in folders that are something else.
    """

    given: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passed_over: int = 0


def gather(files: tuple[str, ...], storage: Storage, base: int | None = None) -> Gathered:
    """Look into files and folders.

    Raises:
        AdoptError: a file that was named cannot be used; StorageError: it cannot be read.
    """
    gathered = Gathered()
    read: set[str] = set()  # checkpoints and SavedModels, which are several files each
    for address in files:
        uri = storage.normalize(address)
        if not storage.is_folder(uri):
            head = _head(uri, storage)
            if head in read:
                continue
            read |= {head} if head else set()
            given = read_given(uri, redact(address), storage, base)
            if not _is_part(given):
                raise AdoptError(f"{redact(address)}: {given.form} that holds no part of a captioner{_keys(given)}")
            gathered.given.append(given)
            continue
        entries = sorted(storage.list(uri), key=lambda entry: entry.uri)
        heads = {head for entry in entries if (head := head_of(entry.uri))} - read
        read |= heads
        last = latest(heads, storage)
        gathered.passed_over += len(heads) - len(last)
        for head in sorted(last):
            try:
                gathered.given.append(read_tensorflow(head, redact(head), storage))
            except AdoptError as err:
                gathered.problems.append(str(err))
        for entry in entries:
            name = redact(entry.uri)
            if head_of(entry.uri):
                continue
            if name.lower().endswith(_PASSED_OVER) and not name.lower().endswith("word_counts.txt"):
                gathered.passed_over += 1
                continue
            with storage.open(entry.uri) as file:
                if is_other(file.read(_HEAD)):
                    gathered.passed_over += 1
                    continue
            try:
                given = look(storage.read(entry.uri), name, base)
            except AdoptError as err:
                gathered.problems.append(str(err))
                continue
            if _is_part(given):
                gathered.given.append(given)
            else:
                gathered.passed_over += 1
    return gathered


def read_given(uri: str, name: str, storage: Storage, base: int | None = None) -> Given:
    """Read a file, or the checkpoint or SavedModel that it is part of.

    Raises:
        AdoptError: as `look` and `read_tensorflow`; StorageError: it cannot be read.
    """
    head = _head(uri, storage)
    return read_tensorflow(head, name, storage) if head else look(storage.read(uri), name, base)


def _head(uri: str, storage: Storage) -> str | None:
    """See `head_of`; a checkpoint can also be named as TensorFlow does, without an ending, or by its graph, X.meta."""
    if storage.is_folder(uri):
        return f"{uri.rstrip('/')}/{SAVED_MODEL}"
    index = f"{uri.removesuffix('.meta')}.index"
    if (uri.endswith(".meta") or not storage.exists(uri)) and storage.exists(index):
        return index
    return head_of(uri)


def _is_part(given: Given) -> bool:
    return bool(given.words or given.tensors or given.keras or given.features or given.keras_weights is not None)


def _keys(given: Given) -> str:
    if isinstance(given.value, dict):
        return f"; its keys are {', '.join(repr(key) for key in list(given.value)[:6])}"
    return ""


def adopt(options: AdoptOptions, log: Callable[[str], None]) -> tuple[Adopted, Trial]:
    """Make a bundle of a captioner's files, and say what was found, what is exact, and how it captions.

    Raises:
        AdoptError: the files give no captioner; StorageError: one cannot be read or the bundle not written.
    """
    storage = Storage(options.storage)
    _require(options, storage)
    gathered = gather(options.files, storage, options.index_base)
    for given in gathered.given:
        log(f"{given.name}: {given.describe()}")
    for problem in gathered.problems:
        log(f"left out: {problem}")
    if gathered.passed_over:
        log(f"passed over: {gathered.passed_over:,} other files")
    try:
        adopted = convert(gathered.given, options)
    except AdoptError as err:
        if gathered.problems:
            raise AdoptError(f"{err}; of the files left out: {'; '.join(gathered.problems[:3])}") from err
        raise
    log(f"kind: {adopted.kind}" + (" (--kind forces another)" if options.kind == "auto" else ""))
    for title, lines in (
        ("exact", adopted.exact), ("approximated", adopted.approximated), ("note", adopted.notes),
    ):  # fmt: skip
        for line in lines:
            log(f"{title}: {line}")
    captioner = adopted.captioner
    captioner.note = f"adopted: {adopted.kind}"
    captioner.provenance = {
        "adopted": {
            "kind": adopted.kind,
            "files": [given.name.rpartition("/")[2] for given in gathered.given],
            "exact": adopted.exact,
            "approximated": adopted.approximated,
            "notes": adopted.notes,
        }
    }
    images = [(redact(name), name) for name in options.try_images] if options.try_images else drawn_scenes()
    if captioner.encoder.config["name"] == NO_NETWORK:
        log("warning: the bundle has no encoder: it captions features, not images (--encoder-weights gives it one)")
        images, trial = [], Trial([], [])
    else:
        trial = try_out(captioner, images, storage)
    for name, caption in trial.captions[:_SHOWN]:
        log(f"{name}: {caption}")
    for warning in trial.warnings:
        log(f"warning: {warning}")
    told: dict[str, str] = {}
    for given in gathered.given:
        if given.features is not None:
            count = SCENES if options.captions is None else None
            told |= _try_features(captioner, given.name, given.features, count, images, storage, log)
    if options.captions is not None:
        _write_captions(told, options.captions, storage)
        log(f"{redact(options.captions)}: captions of {len(told):,} images, by their features")
    captioner.save(storage.normalize(options.output), storage=storage)
    return adopted, trial


def _require(options: AdoptOptions, storage: Storage) -> None:
    """Refuse files that are not there. A TensorFlow checkpoint may be named without an ending."""
    for address in options.files:
        if not storage.exists(f"{storage.normalize(address).removesuffix('.meta')}.index"):
            require("adopt", [address], storage)
    require("--encoder-weights", filter(None, [options.encoder_weights]), storage)
    require("--try", options.try_images, storage)


def _write_captions(told: dict[str, str], address: str, storage: Storage) -> None:
    if not told:
        raise AdoptError(
            "--captions wants features of images that this decoder reads, as encoded_test_images.pkl has them"
        )
    lines = [json.dumps({"image": name, "caption": text}, ensure_ascii=False) for name, text in told.items()]
    storage.write(storage.normalize(address), "".join(f"{line}\n" for line in lines).encode())


def _try_features(
    captioner: Captioner,
    name: str,
    features: Features,
    count: int | None,
    images: Sequence[tuple[str, ImageLike]],
    storage: Storage,
    log: Callable[[str], None],
) -> dict[str, str]:
    """Say what the decoder makes of features that somebody computed, and how near the encoder's own are to them.

    Returns:
        The captions of so many images, or of all, by their names.
    """
    if captioner.decoder.feature_kind != "pooled" or captioner.decoder.feature_size != features.size:
        log(
            f"warning: {name} has features of {features.size:,} values, and this decoder reads "
            f"{captioner.decoder.feature_kind} ones of {captioner.decoder.feature_size:,}: they are another encoder's"
        )
        return {}
    trial = try_features(captioner, features, count)
    for image, caption in trial.captions[:_SHOWN]:
        log(f"{image}, by its features: {caption}")
    for warning in trial.warnings:
        log(f"warning: of the features in {name}: {warning}")
    least = similarity(captioner, features, images, storage)
    if least is not None:
        log(f"note: the encoder's features of images that {name} has too have a cosine of at least {least:.3f} to them")
    return dict(trial.captions)


def convert(given: list[Given], options: AdoptOptions) -> Adopted:
    """The captioner that some files hold.

    Raises:
        AdoptError: they give none.
    """
    if not any(one.words or one.tensors or one.keras or one.keras_weights is not None for one in given):
        raise AdoptError(
            "none of the files holds weights or words of a captioner"
            + ("; features of images are neither" if given else "")
        )
    if not any(one.tensors or one.keras or one.keras_weights is not None for one in given):
        names = ", ".join(f"{one.name} ({one.form})" for one in given if one.words)
        raise AdoptError(
            f"the weights are missing: {names} holds words alone. Name the files of the captioner's networks too, or "
            "the folder that all lie in"
        )
    try:
        return _convert(given, options)
    except (RuntimeError, IndexError, KeyError, TypeError) as err:  # shapes that no check has named
        raise AdoptError(f"the arrays in the files do not fit each other: {str(err) or type(err).__name__}") from err


def _convert(given: list[Given], options: AdoptOptions) -> Adopted:
    changes = read_preprocessing(options.preprocessing)
    if options.kind == "keras-merge" or (options.kind == "auto" and is_keras(given)):
        encoder_file = _encoder_file(options)
        try:
            return adopt_merge(given, encoder_file, options.encoder, options.markers, changes)
        except EncoderMissingError as err:
            if options.encoder or not any(one.features for one in given):
                raise
            adopted = adopt_merge(given, None, NO_NETWORK, options.markers, changes)
            adopted.notes.append(str(err))
            return adopted
    if options.kind == "ruotianluo" or (options.kind == "auto" and is_ruotianluo(given)):
        encoder_file = _encoder_file(options)
        return adopt_ruotianluo(given, encoder_file, options.encoder, options.rename, options.markers, changes)
    if options.kind == "im2txt" or (options.kind == "auto" and is_im2txt(given)):
        return adopt_im2txt(given, options.markers, changes)
    parts = sort_parts(given, options.rename)
    if options.kind == "sgrvinod" or (options.kind == "auto" and is_attention(parts.decoder)):
        return adopt_attention(parts, options.markers, changes)
    return adopt_show_tell(parts, options.kind, options.markers, changes)


def _encoder_file(options: AdoptOptions) -> Given | None:
    if options.encoder_weights is None:
        return None
    storage = Storage(options.storage)
    address = storage.normalize(options.encoder_weights)
    return read_given(address, redact(options.encoder_weights), storage)

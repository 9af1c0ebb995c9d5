"""What TensorFlow saves as several files: checkpoints (`X.index`, `X.data-…`), and SavedModels (a folder).

One file stands for the others: the index, or saved_model.pb. Of a SavedModel the layers are described in JSON (in
keras_metadata.pb, before TensorFlow 2.5 in saved_model.pb itself), and the arrays are a checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.keras_files import Arrays
from captionkit.adopt.protobuf import parts, text
from captionkit.adopt.tensor_bundle import Checkpoint, read_index
from captionkit.lfs import LFS_POINTER, is_lfs_pointer
from captionkit.storage import Storage

SAVED_MODEL = "saved_model.pb"
_METADATA, _VARIABLES = "keras_metadata.pb", "variables/variables"
_IN_SAVED_MODEL = re.compile(
    r"(saved_model|keras_metadata|fingerprint)\.pb|variables/variables\.(index|data-\d+-of-\d+)"
)
_IN_CHECKPOINT = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_PARTS = (
    "embeddings",
    "depthwise_kernel",
    "pointwise_kernel",
    "kernel",
    "recurrent_kernel",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
)
"""Arrays of Keras's layers, in the order in which Keras makes those of a layer."""
_SAVE_ANEW = 'save the network in TensorFlow with model.save("captioner.keras") or model.save("captioner.h5")'
_LATEST = re.compile(r'^model_checkpoint_path: "(?:[^"]*/)?([^"/]+)"', re.MULTILINE)


def head_of(address: str) -> str | None:
    """The file that stands for the checkpoint or SavedModel that this one is part of; None where it is neither's."""
    folder, _, name = address.rpartition("/")
    above, _, parent = folder.rpartition("/")
    if parent == "variables" and _IN_SAVED_MODEL.fullmatch(f"{parent}/{name}"):
        return f"{above}/{SAVED_MODEL}"
    if _IN_SAVED_MODEL.fullmatch(name):
        return f"{folder}/{SAVED_MODEL}"
    ending = _IN_CHECKPOINT.search(name)
    return f"{address[: -len(ending[0])]}.index" if ending else None


def latest(heads: Iterable[str], storage: Storage) -> set[str]:
    """Of several checkpoints in a folder the last one, where the file `checkpoint` beside them names it."""
    taken = set(heads)
    for folder in {head.rpartition("/")[0] for head in taken if head.endswith(".index")}:
        beside = {head for head in taken if head.endswith(".index") and head.rpartition("/")[0] == folder}
        if len(beside) > 1 and storage.exists(f"{folder}/checkpoint"):
            named = _LATEST.search(storage.read(f"{folder}/checkpoint").decode("utf-8", "replace"))
            if named and (last := f"{folder}/{named[1]}.index") in beside:
                taken -= beside - {last}
    return taken


def read_tensorflow(head: str, name: str, storage: Storage) -> Given:
    """Read a checkpoint or a SavedModel.

    Args:
        head: see `head_of`.
        name: what it is called for people.

    Raises:
        AdoptError: a part is missing, cut, damaged or a pointer, or the SavedModel does not say what its layers are.
        StorageError: a part cannot be read.
    """
    try:
        if head.endswith(SAVED_MODEL):
            return _read_saved_model(head.removesuffix(f"/{SAVED_MODEL}"), name, storage)
        checkpoint = _checkpoint(head.removesuffix(".index"), storage)
        if _GRAPH in checkpoint.entries:
            return Given(name, "TensorFlow checkpoint of Keras", keras_weights=_by_layers(checkpoint))
        tensors = {key: torch.from_numpy(checkpoint.array(key).astype(np.float32)) for key in checkpoint.floats()}
        return Given(name, "TensorFlow checkpoint", tensors=tensors)
    except AdoptError as err:
        raise AdoptError(f"{name}: {err}") from err


def _part(address: str, storage: Storage, missing: str) -> bytes:
    if not storage.exists(address):
        raise AdoptError(missing)
    data = storage.read(address)
    if is_lfs_pointer(data):
        raise AdoptError(f"{address.rpartition('/')[2]} is {LFS_POINTER}")
    return data


def _checkpoint(stem: str, storage: Storage) -> Checkpoint:
    base = stem.rpartition("/")[2]
    index = _part(
        f"{stem}.index",
        storage,
        f"its index is missing: a checkpoint is {base}.index and {base}.data-00000-of-00001, side by side",
    )
    checkpoint = read_index(index)
    checkpoint.load(
        lambda ending: _part(
            f"{stem}{ending}",
            storage,
            f"its data are missing: {base}{ending} belongs beside {base}.index, in the same folder",
        )
    )
    return checkpoint


def _read_saved_model(folder: str, name: str, storage: Storage) -> Given:
    saved_model = memoryview(_part(f"{folder}/{SAVED_MODEL}", storage, f"{SAVED_MODEL} is missing from the SavedModel"))
    nodes = memoryview(b"")
    if storage.exists(f"{folder}/{_METADATA}"):
        nodes = memoryview(_part(f"{folder}/{_METADATA}", storage, ""))
    keras = _description(next((text(node, 5) for node in parts(nodes, 1) if text(node, 3) == "root"), ""))
    keras = keras or _description(_root_metadata(saved_model))
    if keras is None:
        raise AdoptError(
            "a SavedModel without Keras's description of the layers, as model.export and tf.saved_model.save write it: "
            f"{_SAVE_ANEW}"
        )
    if isinstance(described := keras.get("model_config"), dict):
        keras = {**keras, **described}
    if not isinstance(keras.get("config"), dict) or "layers" not in keras["config"]:
        raise AdoptError(
            f"the SavedModel is of a network with code of its own ({keras.get('class_name') or 'no class'}), which it "
            "does not describe: only Functional models of Keras's layers are adopted"
        )
    weights = _by_layers(_checkpoint(f"{folder}/{_VARIABLES}", storage))
    return Given(name, "SavedModel", keras=keras, keras_weights=weights)


def _description(metadata: str) -> dict[str, Any] | None:
    if not metadata:
        return None
    try:
        value = json.loads(metadata, object_hook=_tuple)
    except (ValueError, RecursionError) as err:
        raise AdoptError(f"the description of the Keras network in the SavedModel is no JSON ({err})") from err
    return value if isinstance(value, dict) else None


def _tuple(value: dict[str, Any]) -> Any:
    """Keras writes a tuple as an object with its items."""
    return value["items"] if value.get("class_name") == "__tuple__" and "items" in value else value


def _root_metadata(saved_model: memoryview) -> str:
    """Of the first object in the graph of objects: SavedModel.meta_graphs[0].object_graph_def.nodes[0].user_object."""
    message = saved_model
    for number in (2, 7, 1, 4):
        message = next(parts(message, number), memoryview(b""))
    return text(message, 3)


def _by_layers(checkpoint: Checkpoint) -> Arrays:
    """Arrays of each layer. A variable's full name begins with its layer's, and ends with what it is."""
    if _GRAPH not in checkpoint.entries:
        raise AdoptError(f"the checkpoint is damaged: it does not say which layers its variables are of ({_GRAPH})")
    grouped: dict[str, dict[str, Any]] = {}
    for node in parts(checkpoint.string(_GRAPH), 1):
        for attribute in parts(node, 2):
            full, key = text(attribute, 2), text(attribute, 3)
            layer, _, part = full.partition("/")
            part = part.rpartition("/")[2]
            # An optimizer remembers arrays of the same names.
            if part in _PARTS and key in checkpoint.entries and "optimizer" not in key.lower():
                grouped.setdefault(layer, {})[part] = checkpoint.array(key).astype(np.float32)
    return {layer: [arrays[part] for part in _PARTS if part in arrays] for layer, arrays in grouped.items()}

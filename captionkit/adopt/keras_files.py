"""Keras's files, without TensorFlow: `.h5` of Keras 2 and 3, `.keras`, and weights alone.

A network's description is JSON. Arrays are found by the names of layers; groups and datasets that lead out of the file
(links, external storage) are refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given

MOST_BYTES = 4 * 2**30
"""Of all arrays of a file together, unpacked."""
_DEPTH = 8

Arrays = dict[str, list[Any]]
"""Arrays of each layer, in the order in which Keras makes them: kernel, recurrent kernel, bias."""


def read_h5(data: bytes, name: str) -> Given:
    """Read an `.h5` file: a network, or weights alone.

    Raises:
        AdoptError: h5py is not installed; the file is cut, damaged, or holds no weights of Keras.
    """
    with _open(data) as file, _damage():
        config = file.attrs.get("model_config")
        keras = _json(config) if config is not None else None
        root = _get(file, "model_weights") if "model_weights" in file else file
        if "layer_names" in root.attrs:
            arrays = _by_names(root)
        elif "layers" in root:
            arrays = _by_groups(_get(root, "layers"), keras)
        else:
            raise AdoptError(
                f"an HDF5 file without a network: it holds {', '.join(list(file)[:5]) or 'nothing'}; Keras's have "
                "model_weights or layer_names"
            )
        if keras is not None and (version := file.attrs.get("keras_version")) is not None:
            keras["keras_version"] = _text(version)
    return Given(name, "Keras .h5", keras=keras, keras_weights=arrays)


def read_keras_zip(data: bytes, name: str) -> Given:
    """Read a `.keras` file.

    Raises:
        AdoptError: as `read_h5`.
    """
    try:
        with ZipFile(BytesIO(data)) as archive:
            sizes = sum(entry.file_size for entry in archive.infolist())
            if sizes > MOST_BYTES:
                raise AdoptError(f"the file unpacks to {sizes:,} bytes; captionkit reads {MOST_BYTES:,}")
            keras = _json(archive.read("config.json"))
            if "metadata.json" in archive.namelist():
                keras["keras_version"] = _json(archive.read("metadata.json")).get("keras_version", "3")
            weights = archive.read("model.weights.h5")
    except (BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as err:
        raise AdoptError(f"the .keras file is damaged ({err}); fetch it anew") from err
    with _open(weights) as file, _damage():
        arrays = _by_groups(_get(file, "layers"), keras) if "layers" in file else {}
    return Given(name, "Keras .keras", keras=keras, keras_weights=arrays)


def _open(data: bytes) -> Any:
    try:
        import h5py
    except ImportError as err:
        raise AdoptError("Keras's files need h5py: pip install h5py, or captionkit[adopt]") from err
    try:
        return h5py.File(BytesIO(data), "r")
    except OSError as err:
        match = re.search(r"eof = (\d+),.*stored_eof = (\d+)", str(err))
        sizes = f": it needs {int(match[2]):,} bytes and has {int(match[1]):,}" if match else ""
        raise AdoptError(f"the HDF5 file is cut or damaged{sizes}; fetch it anew") from err


@contextmanager
def _damage() -> Iterator[None]:
    """AdoptError for what h5py raises of a damaged file, and for names and numbers that are not Keras's."""
    try:
        yield
    except AdoptError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as err:
        raise AdoptError(f"the file is damaged, or not as Keras writes it ({err})") from err


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(_text(text))
    except (ValueError, RecursionError) as err:
        raise AdoptError(f"the description of the Keras network is no JSON ({err})") from err
    if not isinstance(value, dict):
        raise AdoptError("the description of the Keras network is no JSON object")
    return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _get(group: Any, path: str) -> Any:
    """A group or dataset of this very file.

    Raises:
        AdoptError: it is not there, or leads elsewhere.
    """
    import h5py

    for part in path.split("/"):
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise AdoptError(f"the HDF5 file has no {path}, or a link in its place")
        group = group[part]
    return group


def _array(dataset: Any, budget: list[int]) -> Any:
    if not hasattr(dataset, "dtype") or dataset.dtype.kind not in "fiu":
        raise AdoptError("an array of Keras's that holds no numbers")
    if dataset.external or dataset.is_virtual:
        raise AdoptError("an array that the HDF5 file keeps in another file, which captionkit does not open")
    budget[0] -= int(dataset.nbytes)
    if budget[0] < 0:
        raise AdoptError(f"the arrays have more than {MOST_BYTES:,} bytes")
    try:
        return np.asarray(dataset[()], dtype=np.float32)
    except OSError as err:
        raise AdoptError("the HDF5 file is damaged: an array cannot be read; fetch it anew") from err


def _by_names(root: Any) -> Arrays:
    """The layout of Keras 1 and 2, which Keras 3 still writes: names of layers, and of their arrays, as attributes."""
    arrays: Arrays = {}
    budget = [MOST_BYTES]
    for name in map(_text, root.attrs["layer_names"]):
        group = _get(root, name)
        paths = [_text(path) for path in group.attrs.get("weight_names", ())]
        arrays[name] = [_array(_get(group, path), budget) for path in paths]
    return arrays


def _by_groups(layers: Any, keras: dict[str, Any] | None) -> Arrays:
    """The layout of Keras 3: a group for each layer, named by its class and a counter; newer ones hold its own name."""
    arrays: Arrays = {}
    budget = [MOST_BYTES]
    names = dict(_group_names(keras)) if keras else {}
    for key in layers:
        group = _get(layers, key)
        parts = list(_variables(group, 0))
        own = next((_text(part.attrs["name"]) for part in parts if "name" in part.attrs), None)
        numbered = [part[number] for part in parts for number in sorted(part, key=int)]
        arrays[names.get(key) or own or key] = [_array(dataset, budget) for dataset in numbered]
    return arrays


def _variables(group: Any, depth: int) -> Iterator[Any]:
    """The groups "vars" within a layer's group; of a recurrent layer it is its cell's that is not empty."""
    if depth > _DEPTH:
        raise AdoptError("the HDF5 file nests its layers too deep")
    for key in sorted(group, key=lambda key: (key != "vars", key)):
        child = _get(group, key)
        if key == "vars":
            yield child
        elif not hasattr(child, "dtype"):
            yield from _variables(child, depth + 1)


def _group_names(keras: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Group and name of each layer: Keras counts layers of a class in their order."""
    counts: Counter[str] = Counter()
    for layer in keras.get("config", {}).get("layers", ()):
        if not str(layer.get("module", "keras.layers")).startswith("keras.layers"):
            continue  # an operation, not a layer
        snake = re.sub(
            r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        ).lower()
        number = counts[snake]
        counts[snake] += 1
        yield (f"{snake}_{number}" if number else snake), layer.get("name") or layer["config"]["name"]

"""PyTorch's two file formats, without `torch.load`: a zip of a pickle and raw storages, and, before PyTorch 1.6, five
pickles with the storages behind them."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.pickles import (
    CutError,
    Name,
    Persistent,
    PickleLimits,
    Record,
    StoredTensor,
    children,
    read_pickle,
)

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How the old format begins: the pickle of a number, `torch.serialization.MAGIC_NUMBER`."""
_ARRAYS = PickleLimits(nbytes=2**31)
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
"""Where a module of PyTorch keeps its tensors and the modules within it."""


@dataclass
class TorchFile:
    """What a file of PyTorch holds: the pickled value, and the storages that its tensors name."""

    value: Any
    storages: dict[str, memoryview] = field(default_factory=dict)
    _loaded: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as a state dict has them: through dictionaries, and modules that were saved whole.

        What an optimizer remembers is left out.

        Raises:
            AdoptError: a tensor that does not fit its storage.
        """
        by_name: dict[str, Tensor] = {}
        seen: set[int] = set()
        todo: list[tuple[str, Any]] = [("", self.value)]
        while todo:
            name, value = todo.pop()
            if isinstance(value, StoredTensor):
                by_name[name] = self.tensor(value, name)
            elif isinstance(value, (dict, Record)) and id(value) not in seen:
                seen.add(id(value))
                todo += [(f"{name}.{key}" if name else key, child) for key, child in _named(value)]
        return dict(sorted(by_name.items()))

    def tensor(self, stored: StoredTensor, name: str) -> Tensor:
        """A tensor from its storage; those of one storage share it."""
        key, dtype, numel, start = _storage(stored.storage)
        if key not in self._loaded:
            data = self.storages.get(key)
            if data is None or len(data) < numel * dtype.itemsize:
                raise AdoptError(f"tensor {name}: its storage {key} is missing or cut")
            flat = torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
            self._loaded[key] = flat
        flat = self._loaded[key]
        count, offset = math.prod(stored.size), stored.offset + start
        last = offset + sum((size - 1) * stride for size, stride in zip(stored.size, stored.stride, strict=True))
        if flat.dtype != dtype or count > len(flat) or (count and last >= len(flat)):
            raise AdoptError(f"tensor {name} of {stored.size} does not fit its storage of {len(flat):,} values")
        return flat.as_strided(stored.size, stored.stride, offset) if count else flat.new_empty(stored.size)


def is_torch_zip(names: list[str]) -> bool:
    """Whether a zip with these files in it is one of PyTorch."""
    return any(name.endswith("/data.pkl") or name == "data.pkl" for name in names)


def read_torch_zip(data: bytes) -> TorchFile:
    """Read the format of PyTorch 1.6 and later.

    Raises:
        AdoptError: it is cut or damaged; PickleError: its pickle holds what is not read.
    """
    try:
        with ZipFile(BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if any(entry.compress_type != ZIP_STORED for entry in entries.values()):
                raise AdoptError("a PyTorch file that was compressed: unpack and save it anew with torch.save")
            if sum(entry.file_size for entry in entries.values()) > len(data):
                raise AdoptError("a damaged PyTorch file: its parts are larger than the whole")
            folder = next(name for name in entries if name.endswith("data.pkl")).removesuffix("data.pkl")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
            if order != b"little":
                raise AdoptError("the file was written on a big-endian machine, which captionkit does not read")
            value, _ = read_pickle(archive.read(f"{folder}data.pkl"), 0, _ARRAYS)
            prefix = f"{folder}data/"
            storages = {
                name.removeprefix(prefix): memoryview(archive.read(name)) for name in entries if name.startswith(prefix)
            }
    except BadZipFile as err:
        raise AdoptError(cut_zip(data)) from err
    except (NotImplementedError, EOFError, RuntimeError, struct.error, OSError, UnicodeDecodeError) as err:
        raise AdoptError(f"a damaged PyTorch file ({err})") from err
    return TorchFile(value, storages)


def cut_zip(data: bytes) -> str:
    """What to say of a zip without its directory, which stands at the end: if it is PyTorch's, how long it must be.

    Its first part is the pickle, which tells the sizes of all storages.
    """
    begin = f"the file is cut: it begins as a zip and lacks the directory at its end; it has {len(data):,} bytes"
    try:
        name, extra = struct.unpack_from("<HH", data, 26)
        if data[30 : 30 + name].endswith(b"data.pkl"):
            value, _ = read_pickle(data, 30 + name + extra, _ARRAYS)
            needed = sum(numel * dtype.itemsize for numel, dtype in _all_storages(value).values())
            return f"{begin} and needs more than {needed:,}; fetch it anew"
    except (struct.error, AdoptError):
        pass
    return f"{begin}; fetch it anew"


def read_torch_legacy(data: bytes) -> TorchFile:
    """Read the format of PyTorch before 1.6.

    Raises:
        AdoptError: it is cut (the message says how many bytes it needs) or damaged; PickleError: as `read_torch_zip`.
    """
    at = 0
    values = []
    try:
        for _ in range(5):  # magic number, version, system, the object, keys of storages
            value, at = read_pickle(data, at, _ARRAYS)
            values.append(value)
    except CutError as err:
        raise AdoptError(
            f"the file is cut within its header: it has {len(data):,} bytes and needs more; fetch it anew"
        ) from err
    *_, value, keys = values
    known = _all_storages(value)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in known for key in keys):
        raise AdoptError("a damaged PyTorch file: it does not say what its storages are")
    needed = at + sum(8 + known[key][0] * known[key][1].itemsize for key in keys)
    if needed > len(data):
        raise AdoptError(f"the file is cut: it needs {needed:,} bytes and has {len(data):,}; fetch it anew")
    storages = {}
    view = memoryview(data)
    for key in keys:
        numel, dtype = known[key]
        if struct.unpack_from("<q", data, at)[0] != numel:
            raise AdoptError(f"a damaged PyTorch file: storage {key} is not of the length that its tensors name")
        storages[key] = view[at + 8 : at + 8 + numel * dtype.itemsize]
        at += 8 + numel * dtype.itemsize
    return TorchFile(value, storages)


def _named(value: dict[Any, Any] | Record) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), child) for key, child in value.items() if _is_name(key)]
    parts = [part for name in _MODULE_PARTS if isinstance(part := value.attributes.get(name), dict)]
    return [(str(key), child) for part in [*parts, value.entries] for key, child in part.items() if _is_name(key)]


def _is_name(key: object) -> bool:
    """Optimizers keep tensors as large as the weights, under names of their own."""
    return isinstance(key, str) and "optim" not in key.lower()


def _all_storages(value: Any) -> dict[str, tuple[int, torch.dtype]]:
    """Length and type of each storage that a pickled value names."""
    storages: dict[str, tuple[int, torch.dtype]] = {}
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, StoredTensor):
            one = one.storage
        if isinstance(one, Persistent):
            key, dtype, numel, _ = _storage(one)
            storages[key] = (numel, dtype)
        elif id(one) not in seen:
            seen.add(id(one))
            todo += children(one)
    return storages


def _storage(persistent: Persistent) -> tuple[str, torch.dtype, int, int]:
    """Key, type, length and first element of ("storage", type, key, location, length[, (view, first, length)])."""
    match persistent.key:
        case ("storage", Name(name=kind), str(key), str(), int(numel), *view) if kind in _DTYPES and numel >= 0:
            start = view[0][1] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else 0
            if isinstance(start, int) and start >= 0:
                return key, _DTYPES[kind], numel, start
    raise AdoptError(f"the file keeps something that is no storage of PyTorch: {persistent.key!r:.100}")


def renamed(tensors: Mapping[str, Tensor], changes: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors under other names: each change is OLD=NEW, of the beginning of names, the first that fits.

    Raises:
        AdoptError: a change without "=", or two tensors of one name.
    """
    pairs = [change.partition("=") for change in changes]
    if any(not equals for _, equals, _ in pairs):
        raise AdoptError(f"--rename takes OLD=NEW, not {' '.join(changes)}")
    changed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = next((new + name.removeprefix(old) for old, _, new in pairs if name.startswith(old)), name)
        if new in changed:
            raise AdoptError(f"--rename gives two tensors the name {new}")
        changed[new] = tensor
    return changed

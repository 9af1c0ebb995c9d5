"""The files of a bundle as bytes: which there are, where from, and what a captioner is known by. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib.resources import files as package_files

from captionkit.errors import UsageError
from captionkit.lfs import LFS_POINTER, is_lfs_pointer
from captionkit.storage import Storage, StorageError, redact

DESCRIPTION, VOCABULARY, WEIGHTS = "captioner.json", "vocabulary.json", "weights.safetensors"
CALIBRATION = "calibration"
"""The name of a calibration in the description."""
FILES = (DESCRIPTION, VOCABULARY, WEIGHTS)

Files = Mapping[str, bytes]
"""A bundle's files by name."""


class BundleError(UsageError):
    """A bundle that cannot be used. The message says which file, what is wrong with it, and what to do."""


def read_files(uri: str | None, storage: Storage) -> dict[str, bytes]:
    """Read a bundle's files; without an address, those of the captioner inside the package.

    Raises:
        BundleError: the folder or a file is missing or cannot be read.
    """
    if uri is None:
        try:
            folder = package_files("captionkit") / "assets" / "default"
            return {name: (folder / name).read_bytes() for name in FILES}
        except OSError as err:
            raise BundleError(
                f"this installation lacks the embedded captioner ({err}); install captionkit anew, or name a bundle"
            ) from err
    return {name: _read(uri, name, storage) for name in FILES}


def check_bundle(uri: str | None, storage: Storage) -> None:
    """Look whether there is a bundle, as far as its smallest file tells: before anything large is read or imported.

    Raises:
        BundleError: as `read_files`.
    """
    if uri is not None:
        _read(uri, DESCRIPTION, storage)


def read_bundles(uris: Sequence[str], storage: Storage) -> list[dict[str, bytes]]:
    """The files of several bundles; of none, those of the captioner inside the package. Errors as `read_files`."""
    return [read_files(uri, storage) for uri in uris] or [read_files(None, storage)]


def check_bundles(uris: Sequence[str], storage: Storage) -> None:
    """As `check_bundle`, of several bundles."""
    for uri in uris:
        check_bundle(uri, storage)


def _read(uri: str, name: str, storage: Storage) -> bytes:
    try:
        data = storage.read(storage.join(uri, name))
    except StorageError as err:
        if err.kind == "not_found":
            raise BundleError(
                f"{redact(uri)} is no captioner bundle: it lacks {name} (a bundle holds {', '.join(FILES)})"
            ) from err
        raise BundleError(f"the bundle cannot be read: {err}") from err
    if is_lfs_pointer(data):
        raise BundleError(f"{name} of the bundle is {LFS_POINTER}")
    return data


def write_files(files: Files, uri: str, storage: Storage) -> None:
    """Write a bundle's files into a folder. Raises StorageError where that fails."""
    for name in reversed(FILES):  # the description last: a folder without it is no bundle
        storage.write(storage.join(uri, name), files[name])


def fingerprint(files: Files) -> str:
    """The name by which tables know a bundle: "ck-" and 16 hexadecimal digits of BLAKE2b over its files."""
    digest = blake2b(digest_size=8)
    for name in FILES:
        digest.update(f"{name} {len(files[name])}\0".encode())
        digest.update(files[name])
    return f"ck-{digest.hexdigest()}"

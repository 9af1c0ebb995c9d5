"""A Git LFS pointer is called that, wherever it stands in place of a file."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from shutil import copytree

import pytest

import captionkit
from captionkit.config import read_config
from captionkit.corpus import read_corpus
from captionkit.corpus.glove import read_glove
from captionkit.images import ImageError, Limits, Preprocessing, decode
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.model.bundle import read_weights
from captionkit.model.bundle_files import read_files
from captionkit.pipeline.options import CaptionOptions
from captionkit.storage import Storage, StorageError
from captionkit.storage.archives import members
from captionkit.table.table import CaptionTable

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
STORAGE = Storage()


def corpus(file: Path, format: str = "auto") -> object:
    return list(read_corpus(str(file), format=format))


def bundle(file: Path) -> object:
    copytree(Path(captionkit.__file__).parent / "assets" / "default", file.parent / "bundle")
    (file.parent / "bundle" / "weights.safetensors").write_bytes(POINTER)
    return read_files(str(file.parent / "bundle"), STORAGE)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.jpg", lambda file: decode(file.read_bytes(), Preprocessing(size=8, resize=8), Limits())),
        ("a.tar", lambda file: list(members(BytesIO(file.read_bytes())))),
        ("a.parquet", lambda file: list(Inputs(InputOptions(input=(str(file),)), STORAGE).items())),
        ("list.csv", lambda file: list(Inputs(InputOptions(input=(str(file),)), STORAGE).items())),
        ("table.parquet", lambda file: CaptionTable(str(file.parent), STORAGE)),
        ("row.parquet", lambda file: STORAGE.read(f"{file}#0")),
        ("captions.json", corpus),
        ("captions.parquet", lambda file: corpus(file, "parquet")),
        ("glove.txt", lambda file: read_glove(str(file), ["a"])),
        ("bundle.txt", bundle),
        ("resnet.pth", lambda file: read_weights(str(file), STORAGE)),
        ("c.yaml", lambda file: read_config(CaptionOptions, str(file))),
    ],
)
def test_a_pointer_is_called_that(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises((ValueError, tarfile.TarError, StorageError, ImageError)) as error:
        read(tmp_path / name)
    assert "is a Git LFS pointer" in str(error.value)
    assert "git lfs pull" in str(error.value)


def test_a_file_found_in_a_folder_is_a_row_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(POINTER)
    (item,) = Inputs(InputOptions(input=(str(tmp_path),)), STORAGE).items()
    assert item.broken

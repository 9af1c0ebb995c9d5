"""Archives for the pipeline's tests: small drawn pictures in every form that `--input` takes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captionkit.scenes.drawing import draw
from captionkit.scenes.scene import random_scene


def jpeg(seed: int, size: int = 64) -> bytes:
    """A drawn scene as a small JPEG."""
    buffer = io.BytesIO()
    draw(random_scene(seed), size).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Folder:
    """A folder of numbered pictures."""

    path: Path

    def add(self, name: str, data: bytes | int) -> str:
        """Put bytes, or the picture of a seed, at a name; its address."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(data) if isinstance(data, int) else data)
        return str(file)

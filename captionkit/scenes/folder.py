"""Scenes as files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from captionkit.scenes.drawing import draw
from captionkit.scenes.grammar import captions
from captionkit.scenes.scene import random_scene
from captionkit.storage import Storage


def draw_folder(folder: str, count: int, seed: int, size: int = 320) -> Iterator[str]:
    """Draw the scenes seed … seed + count - 1 as JPEGs, and `captions.jsonl` beside them; yields each file's address.

    A file that holds these bytes already is left alone, so that it keeps its date and counts as unchanged.
    """
    storage = Storage()
    base = storage.normalize(folder).rstrip("/")
    lines = []
    for number in range(seed, seed + count):
        scene = random_scene(number)
        name = f"scene-{number:08d}.jpg"
        buffer = io.BytesIO()
        draw(scene, size).save(buffer, "JPEG", quality=90)
        _write(storage, f"{base}/{name}", buffer.getvalue())
        lines.append(json.dumps({"uri": name, "captions": captions(scene, number)}))
        yield f"{base}/{name}"
    _write(storage, f"{base}/captions.jsonl", ("\n".join(lines) + "\n").encode())


def _write(storage: Storage, uri: str, data: bytes) -> None:
    if not storage.exists(uri) or storage.read(uri) != data:
        storage.write(uri, data)

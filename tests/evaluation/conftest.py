"""A small corpus of drawn scenes, and the embedded captioner, which was trained on such."""

from __future__ import annotations

from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.scenes import draw_folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, with their captions in captions.jsonl."""
    folder = tmp_path_factory.mktemp("scenes")
    assert len(list(draw_folder(str(folder), 5, 20_000_000, 96))) == 5
    return folder


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    return Captioner.load(dtype="float32")

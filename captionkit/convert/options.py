"""ConvertOptions: what `captionkit convert` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.storage.options import StorageOptions

Target = Literal["onnx", "tutorial"]


@dataclass(frozen=True)
class ConvertOptions:
    """Write a captioner in the form of other programs."""

    bundle: tyro.conf.Positional[str]
    """Address of the captioner bundle."""
    output: tyro.conf.Positional[str]
    """Folder to write into."""
    to: Target
    """onnx: encoder, decoder start and decoder step for ONNX Runtime, with the words; tutorial: encoder.ckpt,
    decoder.ckpt and vocab.json of the PyTorch tutorial."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)

"""The captioner actors' way with memory."""

from __future__ import annotations

import subprocess
import sys

LITTLE_MEMORY = """
import resource
import torch
import numpy as np
from captionkit.model.captioner import Captioner
from captionkit.pipeline.caption_actor import caption_with_smaller_batches
from captionkit.pipeline.options import WordOptions
from captionkit.model.search.options import SearchOptions

torch.set_num_threads(1)  # threads reserve address space of their own
captioner = Captioner.load(dtype="float32")  # what it takes depends on it, and "auto" on the chip
search, words = SearchOptions(beam=1), WordOptions()
size = captioner.preprocessing.size
few = np.random.default_rng(0).integers(0, 255, (8, size, size, 3), np.uint8)
expected, part = caption_with_smaller_batches(captioner, few, search, words, None)
assert part is None, part
many = np.concatenate([few] * 100)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 256 * 2**20,) * 2)
found, part = caption_with_smaller_batches(captioner, many, search, words, None)
assert part is not None and part < len(many), part
assert [one[0].text for one in found] == [one[0].text for one in expected] * 100
print("held", part)
"""


def test_a_batch_too_large_for_memory_is_halved() -> None:
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("held")

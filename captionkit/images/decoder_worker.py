"""The process that decodes for `captionkit.images.sandbox`, as seen from within.

It is told what to do by lines of JSON on its standard input: first a `WorkerSetup`, then one order per batch. Encoded
images come and pixels go by files in memory, one a channel; what became of each image goes as a line of JSON into
the channel's pipe. When standard input ends, or its parent does, it ends too.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from captionkit.images.types import Decoded, ImageError, Limits, Preprocessing

BYTES_PER_PIXEL = 16
"""What decoding may take: measured were up to 15.6 (WebP) and, of JPEG 2000 alone, 18.5 (RGB)."""

LARGE_PICTURE = 12_000_000
"""Pixels of a image of which every thread may decode one at once, however low `Limits.max_pixels` is."""

_SLACK = 512 * 2**20  # stacks, the allocator's hoards, metadata (Pillow unpacks up to 64 MiB of a PNG's)

Decoder = Callable[..., Decoded]


@dataclass(frozen=True)
class WorkerSetup:
    """All that a child is told at its start.

    decoder: "module:function", called as `captionkit.images.decode` with all four arguments. parent: process id.
    channels: for each, the descriptors of its file in memory and of its pipe.
    """

    decoder: str
    preprocessing: Preprocessing
    limits: Limits
    threads: int
    parent: int
    channels: tuple[tuple[int, int], ...]

    def to_line(self) -> bytes:
        fields = {**asdict(self), "preprocessing": self.preprocessing.to_json()}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WorkerSetup:
        fields = json.loads(line)
        fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"])
        fields["limits"] = Limits(**fields["limits"])
        fields["channels"] = tuple((store, answers) for store, answers in fields["channels"])
        return cls(**fields)


def memory_limit(limits: Limits, threads: int) -> int:
    """Bytes that a child may take on top of what it holds once it has started.

    Enough for the images in `PixelBudget` at once, and twice for the bytes of the largest file.
    """
    return budget_pixels(limits, threads) * BYTES_PER_PIXEL + 2 * limits.max_bytes + _SLACK


def budget_pixels(limits: Limits, threads: int) -> int:
    """Pixels that may be in the making at once: one image of the largest size, or a usual one in each thread."""
    return max(limits.max_pixels, threads * min(LARGE_PICTURE, limits.max_pixels))


class PixelBudget:
    """Lets images into decoding as long as they fit in together, and one that is larger than all on its own."""

    def __init__(self, pixels: int) -> None:
        self._whole = self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def admit(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for that many pixels, and holds it."""
        pixels = min(pixels, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._left)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


def read_at(store: int, length: int, at: int) -> bytes:
    """Exactly that many bytes of a file. Raises EOFError where it is shorter."""
    data = os.pread(store, length, at)
    if len(data) == length:
        return data  # always, below 2 GiB
    parts = [data]
    while (length := length - len(parts[-1])) > 0:
        at += len(parts[-1])
        parts.append(os.pread(store, length, at))
        if not parts[-1]:
            raise EOFError("a batch is shorter than its order says")
    return b"".join(parts)


def write_at(store: int, data: bytes | memoryview, at: int) -> None:
    """All of the data into a file."""
    view = memoryview(data).cast("B")
    while len(view):
        written = os.pwrite(store, view, at)
        view, at = view[written:], at + written


class _Worker:
    def __init__(self, setup: WorkerSetup, decode: Decoder) -> None:
        self.setup, self.decode = setup, decode
        self.budget = PixelBudget(budget_pixels(setup.limits, setup.threads))
        self.answer_lock = threading.Lock()
        self.jobs: queue.SimpleQueue[tuple[int, int, int, int, int | None]] = queue.SimpleQueue()

    def work(self) -> None:
        """One of the threads: image after image."""
        while True:
            channel, index, at, length, frame = self.jobs.get()
            store, answers = self.setup.channels[channel]
            began = time.thread_time()
            answer = self.answer(store, index, at, length, frame)
            answer["seconds"] = round(time.thread_time() - began, 6)
            line = json.dumps(answer).encode() + b"\n"
            with self.answer_lock:
                os.write(answers, line)

    def answer(self, store: int, index: int, at: int, length: int, frame: int | None) -> dict[str, Any]:
        setup = self.setup
        limits = setup.limits if frame is None else replace(setup.limits, frame=frame)
        size = setup.preprocessing.size
        try:
            image = self.decode(read_at(store, length, at), setup.preprocessing, limits, self.budget.admit)
            write_at(store, image.pixels.data, index * size * size * 3)
        except ImageError as err:
            # One that ran out of memory may have taken its neighbours' share, or they its.
            short = err.kind == "too_many_pixels" and err.__cause__ is not None
            return {"i": index, "kind": err.kind, "error": str(err)[:500], "short": short}
        except MemoryError:
            return {"i": index, "kind": "too_many_pixels", "error": "there is not enough memory for it", "short": True}
        except Exception as err:  # whatever it is, it costs one row; `decode` raises nothing of the kind
            message = " ".join(f"{type(err).__name__}: {err}".split())[:300]
            return {"i": index, "kind": "decoder_crashed", "error": f"the decoder failed: {message}"}
        return {"i": index, "width": image.width, "height": image.height}


def main() -> None:
    """Starts as told, says so on every channel, and decodes until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = sys.stdin.buffer
    setup = WorkerSetup.from_line(orders.readline())
    _end_with(setup.parent)
    module, _, name = setup.decoder.partition(":")
    worker = _Worker(setup, getattr(importlib.import_module(module), name))
    _one_thread_per_image()
    _pillow_holds_to(setup.limits)
    for _ in range(setup.threads):
        threading.Thread(target=worker.work, daemon=True).start()
    _limit(memory_limit(setup.limits, setup.threads))
    for _, answers in setup.channels:
        os.write(answers, b"{}\n")
    # From here on only native libraries write there: libtiff its complaints, glibc the reason of an abort.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for line in orders:
        order = json.loads(line)
        at, frames = order["at"], order.get("frames")
        for index, length in enumerate(order["lengths"]):
            worker.jobs.put((order["channel"], index, at, length, None if frames is None else frames[index]))
            at += length
    os._exit(0)  # without waiting for threads that may hang


def _end_with(parent: int) -> None:
    """On Linux the kernel ends this process with its parent, even where a decoder holds the interpreter's lock.

    Elsewhere the end of standard input does, unless one does so.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it was quicker


def _one_thread_per_image() -> None:
    """AVIF's decoder would start a thread per core for each image; the threads here are enough."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _pillow_holds_to(limits: Limits) -> None:
    """Some of its readers refuse twice this number of pixels: here it is ours, as the process is."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = -(-limits.max_pixels // 2)


def _limit(more: int) -> None:
    """No core files; no more private memory than what is held now and that much; first choice of an OOM killer.

    RLIMIT_DATA rather than RLIMIT_AS: the allocator reserves address space for each thread that it never touches.
    Where the kernel does not say what is held (not Linux), there is no limit.
    """
    import resource  # not everywhere, and this module is imported everywhere

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    with suppress(OSError, ValueError):
        with open("/proc/self/status") as status:
            held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
        _, ceiling = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = held + more
        if ceiling == resource.RLIM_INFINITY or wanted < ceiling:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))

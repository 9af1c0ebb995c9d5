"""One decoding child as its parent sees it: starting it, giving it batches, noticing its end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from captionkit.images.decoder_worker import WorkerSetup, write_at
from captionkit.images.types import Decoded, ImageError, Limits, Preprocessing
from captionkit.search_path import safe_environment

CHANNELS = 2
"""Batches that a child takes at once."""

# Python 3.10 has no PYTHONSAFEPATH: what `-c` puts first is the current folder.
_CHILD = """import sys
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
from captionkit.images.decoder_worker import main
main()
"""
_START_SECONDS = 120.0  # Python and Pillow from a cold network disk
_KEPT_BYTES = 96 * 2**20  # of a file in memory from one batch to the next
_LONGEST_LINE = 2**16


class WorkerTimeout(Exception):
    """The child has not answered in time."""


class BatchChannel:
    """Room for one batch: a file in memory for bytes and pixels, a pipe for what became of them."""

    def __init__(self) -> None:
        self.store = _memory_file()
        self._answers, self.theirs = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._unread = b""

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line that the child writes.

        Raises:
            WorkerTimeout: none came for so long.
            EOFError: the child has ended.
            ValueError: this is no answer.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if len(self._unread) > _LONGEST_LINE:
                raise ValueError("a line without end")
            if not self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise WorkerTimeout
            part = os.read(self._answers, _LONGEST_LINE)
            if not part:
                raise EOFError("the child has ended")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("not an answer")
        return answer

    def close_theirs(self) -> None:
        """Closes the child's end of the pipe, so that its death is the end of the pipe."""
        os.close(self.theirs)

    def close(self) -> None:
        os.close(self._answers)
        os.close(self.store)


class DecoderProcess:
    """A decoding child that runs. Raises RuntimeError where it cannot be started."""

    def __init__(self, preprocessing: Preprocessing, limits: Limits, threads: int, decoder: str) -> None:
        self._pixels_shape = (preprocessing.size, preprocessing.size, 3)
        self._orders = threading.Lock()
        self._failed = self._hung = False
        self._channels = [BatchChannel() for _ in range(CHANNELS)]
        ends = tuple((channel.store, channel.theirs) for channel in self._channels)
        setup = WorkerSetup(decoder, preprocessing, limits, threads, os.getpid(), ends)
        try:
            self._process = _start([end for pair in ends for end in pair])
        except BaseException:
            for channel in self._channels:
                channel.close_theirs()
                channel.close()
            raise
        for channel in self._channels:
            channel.close_theirs()
        try:
            self._send(setup.to_line())
            for channel in self._channels:
                channel.answer(_START_SECONDS)
        except (WorkerTimeout, EOFError, ValueError, OSError) as err:
            self.close()
            raise RuntimeError(
                f"the process that decodes images ({sys.executable}, captionkit.images.decoder_worker) did not start "
                f"(exit code {self._process.returncode}); what it printed is in this process's standard error"
            ) from err
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def failed(self) -> bool:
        """Whether it is of no more use."""
        return self._failed or self._process.poll() is not None

    def decode(
        self, number: int, images: Sequence[bytes], seconds: float, frames: Sequence[int | None] | None = None
    ) -> tuple[list[Decoded | ImageError | None], bool]:
        """A batch on the channel of that number, which nobody else uses meanwhile.

        Returns:
            What became of each image, None of those that were not finished when the child died, or had to be killed
            since none of the batch had been finished for so many seconds; and whether failures of the batch may have
            other reasons than the images themselves.
        """
        outcomes: list[Decoded | ImageError | None] = [None] * len(images)
        trouble = False
        try:
            self._submit(number, images, frames)
            for _ in images:
                answer = self._channels[number].answer(seconds)
                trouble |= "short" in answer and bool(answer["short"])
                index = range(len(images))[answer["i"]]
                outcomes[index] = self._outcome(number, index, answer)
            if sum(map(len, images)) + len(images) * self._pixel_bytes > _KEPT_BYTES:
                os.ftruncate(self._channels[number].store, 0)
        except WorkerTimeout:
            self._hung = True
            self._kill()
        except (EOFError, BrokenPipeError, ValueError, KeyError, IndexError, TypeError):
            self._kill()  # dead, or so ill that it says what makes no sense
        except BaseException:
            self._kill()  # its answers would be taken for those to the next batch
            raise
        return outcomes, trouble or self._failed

    def verdict(self, seconds: float) -> ImageError:
        """What to say of the one image that the child failed on."""
        if self._hung:
            return ImageError("decode_timeout", f"decoding took longer than {seconds:g} s and was stopped")
        code = self._process.wait()
        message = f"exit code {code}"
        if code < 0:
            message = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if code == -signal.SIGKILL:
            message += ", perhaps for want of memory"
        return ImageError("decoder_crashed", f"the decoder crashed on this image ({message})")

    def close(self) -> None:
        """Ends it. No batch may be on its way."""
        self._kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        for channel in self._channels:
            channel.close()

    @property
    def _pixel_bytes(self) -> int:
        high, wide, colours = self._pixels_shape
        return high * wide * colours

    def _submit(self, number: int, images: Sequence[bytes], frames: Sequence[int | None] | None) -> None:
        store = self._channels[number].store
        start = at = len(images) * self._pixel_bytes  # pixels lie before the bytes, so that none overwrite any
        for data in images:
            write_at(store, data, at)
            at += len(data)
        order: dict[str, Any] = {"channel": number, "at": start, "lengths": [len(data) for data in images]}
        if frames is not None:
            order["frames"] = list(frames)
        self._send(json.dumps(order).encode() + b"\n")

    def _outcome(self, number: int, index: int, answer: dict[str, Any]) -> Decoded | ImageError:
        if "kind" in answer:
            error = ImageError(str(answer["kind"]), str(answer["error"]))
            error.seconds = float(answer["seconds"])
            return error
        pixels = np.empty(self._pixels_shape, np.uint8)
        if os.preadv(self._channels[number].store, [pixels.data], index * self._pixel_bytes) < self._pixel_bytes:
            raise ValueError("fewer pixels than were promised")
        return Decoded(pixels, int(answer["width"]), int(answer["height"]), float(answer["seconds"]))

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with self._orders:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]

    def _kill(self) -> None:
        self._failed = True
        self._process.kill()


def _memory_file() -> int:
    """A file without a name, in memory on Linux. Not in /dev/shm, which containers keep small and Ray fills."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("captionkit-images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_spawner: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


def _start(ends: Sequence[int]) -> subprocess.Popen[bytes]:
    """Starts a child that inherits these descriptors, from a thread that lives as long as this process.

    Linux ends a child that asked for it (see `child._end_with`) with the thread that started it.
    """
    global _spawner
    env = {
        **os.environ,
        **safe_environment(),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads, which decoding has no use for
        "OMP_NUM_THREADS": "1",
        # glibc: what large images took goes back to the system (else 1.3 GB stayed after some of 120 megapixels),
        # and what small ones take is kept for the next.
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    }
    with _spawner_lock:
        _spawner = _spawner or ThreadPoolExecutor(1, "captionkit-spawner")
        return _spawner.submit(
            subprocess.Popen,
            [sys.executable, "-c", _CHILD],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=env,
            pass_fds=tuple(ends),
            start_new_session=True,  # Ctrl-C at a terminal is for the parent
        ).result()


def _forget() -> None:
    """After a fork the spawner's thread is the parent's."""
    global _spawner, _spawner_lock
    _spawner, _spawner_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

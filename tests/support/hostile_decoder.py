"""A decoder that does what its files' last bytes say, and decodes the others: real signals in a real child."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import numpy as np

from captionkit.images import Decoded, Limits, Preprocessing
from captionkit.images import decode as real_decode
from captionkit.images.decoding import Admit

NAME = "tests.support.hostile_decoder:decode"

ABORT, CRASH, KILLED, EXIT = b"abort!", b"crash!", b"killed", b"exit!!"
HANG, FREEZE = b"hang!!", b"freeze"  # the second with the interpreter's lock in its hand
HOG, RAISE = b"hog!!!", b"raise!"


def decode(data: bytes, preprocessing: Preprocessing, limits: Limits, admit: Admit) -> Decoded:
    """What `captionkit.images.decode` makes of unmarked bytes."""
    mark = data[-6:]
    if mark == ABORT:
        os.abort()
    if mark == CRASH:
        ctypes.string_at(0)
    if mark == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if mark == EXIT:
        os._exit(3)
    if mark == HANG:
        time.sleep(3600)
    if mark == FREEZE:
        ctypes.PyDLL(None).sleep(3600)
    if mark == HOG:
        hoard = []
        while True:
            hoard.append(np.empty(2**26, np.uint8))  # asked for, not touched: quick on a busy machine
    if mark == RAISE:
        raise LookupError("no such\npicture")
    return real_decode(data, preprocessing, limits, admit)

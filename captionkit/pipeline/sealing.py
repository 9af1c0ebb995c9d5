"""Files that must lie where others can read them, and hold what these must not: sealed with a key that does not.

    key = new_key()
    sealed = seal(data, key, "s3://out/_runs/x.arrow")
    assert seal(sealed, key, "s3://out/_runs/x.arrow") == data

A one-time pad stretched by SHAKE-256 (FIPS 202, an extendable-output function) from a random key and the file's name.
It hides; it does not tell whether somebody has changed the file, who could as well have changed one without a seal.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np


def new_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(32)


def seal(data: bytes, key: bytes, name: str) -> bytes:
    """The data sealed, or unsealed: it is its own inverse. No two files of one key may have one name."""
    pad = hashlib.shake_256(key + name.encode("utf-8", "surrogatepass")).digest(len(data))
    return bytes(np.frombuffer(data, np.uint8) ^ np.frombuffer(pad, np.uint8))

"""One part of an archive's addresses, for one of several jobs that fill a table together."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captionkit.errors import UsageError
from captionkit.inputs.ids import Ids

_SHARE = re.compile(r"(\d{1,5})/(\d{1,5})")


class Share(NamedTuple):
    """The `number`-th of `of` shares of all addresses, told apart by a hash: the same in every run and place."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """What `--share 3/16` means.

        Raises:
            UsageError: it is no share.
        """
        match = _SHARE.fullmatch(text)
        share = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= share.number <= share.of:
            raise UsageError(f"--share {text}: expected NUMBER/COUNT from 1/COUNT to COUNT/COUNT, as in 3/16")
        return share

    def holds(self, names: Ids) -> NDArray[np.bool_]:
        """Whether addresses are in the share, by their `image_id` without a version (n,): (n,)."""
        inside: NDArray[np.bool_] = names % self.of == self.number - 1
        return inside

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

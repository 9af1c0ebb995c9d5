"""Listing in a thread of its own, so that captioning starts while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from captionkit.inputs.images import in_batches
from captionkit.inputs.listing import Inputs
from captionkit.pipeline.kept_listing import KeptListing
from captionkit.pipeline.manifest import CHUNK, Manifest, ManifestMaker, ReadUnit

AHEAD_SECONDS = 20.0
"""Time after which captioning starts with what is listed by then."""
AHEAD_IMAGES = 1024
"""Images to do without which it does not."""


class Listing:
    """Lists inputs ahead of what is done with them. A context manager: its end ends the listing.

    Args:
        kept: Where the items come from, if not from `inputs` itself.
        ahead: Whether parts may be taken before all is listed.
    """

    def __init__(
        self, inputs: Inputs, maker: ManifestMaker, *, kept: KeptListing | None = None, ahead: bool = True
    ) -> None:
        self.inputs, self.maker, self.kept, self._ahead = inputs, maker, kept, ahead
        self.total = Manifest()
        """The numbers of all parts that were taken."""
        self.units: list[ReadUnit] = []
        """Units of all parts, those of copies too: what is to be deleted in the end."""
        self.copy_units: list[ReadUnit] = []
        self._changed = threading.Condition()
        self._listed_all = self._stopped = self.finished = False
        self._error: BaseException | None = None
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._list, name="listing", daemon=True)

    def __enter__(self) -> Listing:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:  # from here on it writes nothing
            self._stopped = True
            self.units += self.maker.written
        self._thread.join(1)  # it may wait for storage; it is a daemon

    def _list(self) -> None:
        try:
            for batch in in_batches((self.kept or self.inputs).pieces(), CHUNK):
                with self._changed:
                    if self._stopped:
                        return
                    self.maker.add(batch)
                    self._changed.notify_all()
        except BaseException as err:
            self._error = err
        with self._changed:
            self._listed_all = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what has ended the listing, if anything has."""
        if self._error is not None:
            raise self._error

    def found(self, copies: list[ReadUnit], count: int) -> None:
        """Take as copies what has turned out to be of the same contents as others when it was read."""
        self.copy_units += copies
        self.units += copies
        self.total.copies += count
        self.total.images -= count

    def next(self, least: int, progress: Callable[[int], None] = lambda _: None) -> Manifest:
        """The next part: all that is listed once that is all, or, after `AHEAD_SECONDS`, once so many images are to do.

        `finished` says afterwards whether it is the last one. Each part is to be no smaller than what was done before,
        since each costs the start of actors.

        Args:
            progress: Called with the number of inputs listed so far.

        Raises:
            UsageError, StorageError: as `Inputs.items` does.
        """
        least = max(least, AHEAD_IMAGES)
        with self._changed:
            while not self._listed_all:
                waited = time.monotonic() - self._since
                if self._ahead and waited >= AHEAD_SECONDS and self.maker.to_do >= least:
                    break
                self._changed.wait(0.2)
                progress(self.maker.listed)
            self.check()
            self.finished = self._listed_all
            part = self.maker.take()
        self.total.count(part)
        self.copy_units += part.copy_units
        self.units += [*part.units, *part.copy_units]
        return part

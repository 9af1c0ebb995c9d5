"""Images read in threads: in their order, errors in their places, one batch ahead."""

import threading

import numpy as np
import pytest

from captionkit.images import ImageError, Preprocessing, decode
from captionkit.model.image_reader import read_batches
from captionkit.storage import Storage, StorageError
from tests.model.conftest import encoded, patches

SMALL = Preprocessing(size=32, resize=36)


def test_pixels_and_errors_come_in_the_order_of_the_images() -> None:
    images = [encoded(0), b"no image", patches(1), "/nowhere/a.jpg", encoded(2)]
    batches = list(read_batches(images, SMALL, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    first, bad, pil, missing, last = (result for batch in batches for result in batch)
    assert isinstance(bad, ImageError)
    assert bad.kind == "not_an_image"
    assert isinstance(missing, StorageError)
    assert missing.kind == "not_found"
    for seed, pixels in enumerate((first, pil, last)):
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, decode(encoded(seed), SMALL).pixels)


class Watched(Storage):
    """Serves one image at every address, and notes who asked when."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()
        self.all_asked = threading.Event()

    def read(self, uri: str, column: str | None = None) -> bytes:
        self.asked.add(uri)
        if len(self.asked) == 4:
            self.all_asked.set()
        return encoded(0)


def test_the_next_batch_is_read_while_one_is_used() -> None:
    storage = Watched()
    batches = read_batches([f"/images/{number}" for number in range(6)], SMALL, batch_size=2, storage=storage)
    next(batches)
    assert storage.all_asked.wait(timeout=60)
    assert storage.asked == {f"/images/{number}" for number in range(4)}
    batches.close()


def test_what_fails_every_image_is_raised() -> None:
    class Locked(Storage):
        def read(self, uri: str, column: str | None = None) -> bytes:
            raise StorageError("permission", "no credentials", fatal=True)

    with pytest.raises(StorageError, match="no credentials"):
        list(read_batches(["/images/a"] * 5, SMALL, batch_size=2, storage=Locked()))

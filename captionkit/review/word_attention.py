"""Where a captioner maps for each word of its captions, computed when somebody asks."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from PIL import Image

from captionkit.drawing.attention import AttentionMaps, in_light
from captionkit.drawing.thumbnails import WEBP_QUALITY
from captionkit.errors import UsageError
from captionkit.gallery.attention_maps import maps_of_caption
from captionkit.images import Limits
from captionkit.model.captioner import Captioner
from captionkit.table.table import CaptionTable

SIDE = 640
"""Side of the pictures that are shown."""
KEPT = 8
"""Captions whose maps are kept: somebody goes from word to word."""


class WordAttention:
    """Attention maps of one captioner's own captions. Safe to use from many threads.

    Args:
        before: Texts that may stand before captions (`--say-before`), which the captioner did not generate.

    Raises (from the constructor):
        UsageError: the captioner does not attend.
    """

    def __init__(self, captioner: Captioner, before: Iterable[str] = ()) -> None:
        if not captioner.attends:
            raise UsageError(
                f"--model: this captioner's decoder, {captioner.decoder.name}, has no attention to show; "
                "soft_attention and top_down have"
            )
        self._captioner = captioner
        self._before = sorted(filter(None, before), key=len, reverse=True)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], AttentionMaps] = OrderedDict()

    def words(self, caption: str | None, model: str) -> list[str] | None:
        """The words of a caption that the captioner maps for; None of one that is not its own."""
        if not caption or model != self._captioner.fingerprint:
            return None
        text = next((caption[len(before) :] for before in self._before if caption.startswith(before)), caption)
        return text.split() or None

    def picture(self, uri: str, read: Callable[[str], bytes], limits: Limits, words: list[str], number: int) -> bytes:
        """The image as the captioner saw it, dark where it did not look for the word of this number: a WebP picture.

        Raises:
            IndexError: there is no such word.
            captionkit.images.ImageError: the image cannot be decoded.
        """
        if not 0 <= number < len(words):
            raise IndexError(number)
        key = (uri, " ".join(words))
        with self._lock:  # one network, one computation at a time
            maps = self._kept.pop(key, None)
            if maps is None:
                maps = maps_of_caption(self._captioner, read(uri), words, limits, SIDE)
            self._kept[key] = maps
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        file = io.BytesIO()
        Image.fromarray(in_light(maps.pixels, maps.maps[number])).save(file, "WEBP", quality=WEBP_QUALITY, method=4)
        return file.getvalue()


def texts_before(table: CaptionTable) -> set[str]:
    """What `--say-before` has put before captions of a table."""
    makers = (maker for file in table.files for maker in file.footer.makers())
    return {str(maker.search.get("say_before") or "") for maker in makers}

"""What pages and pictures are drawn with: text made safe to show, thumbnails, attention maps, and captions of several
searches beside each other.

captioner.show(["dog.jpg"], beams=(1, 3)).save("page.html")   # a Comparison
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.drawing.comparison import ComparedImage, Comparison, Told

__all__ = ["ComparedImage", "Comparison", "Told"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "comparison"))

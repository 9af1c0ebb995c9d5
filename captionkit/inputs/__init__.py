"""What an address may be: images, folders, patterns, lists, tables and containers, for captioning and training alike.

The names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.inputs.containers import BrokenContainer, ContainerOptions, EncodedImage, encoded_images
    from captionkit.inputs.ids import IdSet, image_id
    from captionkit.inputs.kinds import InputItem
    from captionkit.inputs.listing import Inputs
    from captionkit.inputs.options import InputOptions
    from captionkit.inputs.tables import TableError, open_text

__all__ = [
    "BrokenContainer",
    "ContainerOptions",
    "EncodedImage",
    "IdSet",
    "InputItem",
    "InputOptions",
    "Inputs",
    "TableError",
    "encoded_images",
    "image_id",
    "open_text",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BrokenContainer": "containers",
        "ContainerOptions": "containers",
        "EncodedImage": "containers",
        "IdSet": "ids",
        "InputItem": "kinds",
        "InputOptions": "options",
        "Inputs": "listing",
        "TableError": "tables",
        "encoded_images": "containers",
        "image_id": "ids",
        "open_text": "tables",
    },
)

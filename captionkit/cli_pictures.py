"""Commands that draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro

from captionkit.cli_options import parse
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.progress import say
from captionkit.storage import Storage, StorageOptions, UsageError

OK = 0


@dataclass(frozen=True)
class AttentionOptions:
    """Draw where a captioner looked for each word of an image's caption."""

    model: tyro.conf.Positional[str]
    """Bundle of a captioner that attends: soft_attention or top_down."""
    image: tyro.conf.Positional[str]
    """Address of the image."""
    picture: str = "attention.png"
    """Address of the picture to write."""
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


def attention(args: Sequence[str]) -> int:
    """Draw where a captioner looked for each word of a caption."""
    options = parse(AttentionOptions, "attention", args)
    from captionkit.gallery.attention import attention as attend  # brings torch along, which --help can do without
    from captionkit.gallery.attention import attention_picture
    from captionkit.images import ImageError
    from captionkit.model.captioner import Captioner

    storage = Storage(options.storage)
    captioner = Captioner.load(options.model, storage=storage)
    try:
        found = attend(captioner, storage.read(storage.normalize(options.image)), options.search)
    except ImageError as err:
        raise UsageError(f"{options.image}: {err}") from err
    storage.write(storage.normalize(options.picture), attention_picture(found))
    say(f"caption: {found.caption}")
    say(f"picture: {options.picture}")
    return OK

"""Options of `captionkit review`, and of `captionkit gallery --serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import tyro

from captionkit.storage.options import StorageOptions

Order = Literal["lowest", "highest", "random", "table", "shortest", "longest"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True)
class ReviewOptions:
    """Look through captions on a local page; approve, edit or reject them by keyboard."""

    table: tyro.conf.Positional[str]
    """Address of the caption table."""
    order: Order = "lowest"
    """What comes first: lowest or highest scores, a random sample, the table's own order, shortest or longest
    captions."""
    where: str = ""
    """Rows wanted, as in `captionkit export`: "score < -1.2 and caption like '%dog%'"."""
    against: str = ""
    """Another table of the same images, another model's say: its captions stand beside these, differences marked. Or a
    column that was carried, as `column:input_caption`: captions that were there before."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Bundle of the captioner that made the captions, if it attends (soft_attention, top_down): a click on a word
    shows where it looked. Of an ensemble its bundles: --model A --model B. Computed when somebody asks."""
    reviews: str = ""
    """Folder of the reviews; `none` to look and not to review. Default: beside the table, its name with `-reviews`."""
    reviewer: str = ""
    """Who reviews, as the reviews shall say."""
    output: str = ""
    """Write a page of HTML that stands for itself to this address, without editing, instead of serving one."""
    limit: int = 200
    """Pictures on that page."""
    port: int = 0
    """Port of the server, on this machine alone. Default: one that is free."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        """Raises ValueError for options out of range."""
        if self.limit < 1 or not 0 <= self.port < 2**16:
            raise ValueError(f"--limit is at least 1 and --port below 65536, not {self.limit} and {self.port}")

"""Options of `captionkit export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from captionkit.errors import UsageError
from captionkit.storage.options import StorageOptions

Format = Literal[
    "csv", "tsv", "jsonl", "xmp", "txt", "imagefolder", "webdataset", "coco-results", "coco-captions", "huggingface",
    "lance", "delta", "iceberg",
]  # fmt: skip
FORMATS: tuple[str, ...] = get_args(Format)
ONE_FILE = ("csv", "tsv", "jsonl", "coco-results", "coco-captions")
"""Formats that are one file; of the others the output is a folder."""
BESIDE = ("xmp", "txt")
"""Formats of one small file an image, which can lie beside it."""
LAKES = ("lance", "delta", "iceberg")
"""Formats of tables that libraries of their own write."""
KEEPS_FAILED = ("csv", "tsv", "jsonl", *LAKES)
"""Formats that have a place for an image without a caption."""
COPIES = ("imagefolder", "txt", "webdataset")
"""Formats that images may be copied into."""
CHOOSES = ("csv", "tsv", "jsonl", "imagefolder", "webdataset", "coco-results", "coco-captions", "huggingface", *LAKES)
"""Formats whose columns can be chosen."""


@dataclass(frozen=True)
class ExportOptions:
    """Captions of a table in the form in which another tool reads them."""

    table: tyro.conf.Positional[str]
    """Address of the caption table."""
    output: tyro.conf.Positional[str] = ""
    """File to write (csv, tsv, jsonl, coco-results, coco-captions) or folder to write into; for iceberg also
    catalog:NAME/NAMESPACE.TABLE. Left out: beside the images (xmp, txt)."""
    format: Annotated[Format, tyro.conf.arg(name="as")] = "csv"
    """What to write."""
    where: str = ""
    """Rows wanted, as in SQL: "score > -1.2 and caption like '%dog%'"."""
    only: Literal["all", "reviewed"] = "all"
    """`reviewed`: captions alone that a person has approved or edited."""
    reviews: str = ""
    """Folder of the reviews that `captionkit review` made, which are laid over the captions; `none` for no reviews.
    Default: beside the table, its name with `-reviews`."""
    columns: tuple[str, ...] = ()
    """Columns to write, as NAME=COLUMN or COLUMN, with commas between: id=image_id,alt=caption. COLUMN is one of the
    table's, or file_name, stem or path, which are parts of the image's address."""
    max_length: int | None = None
    """Captions of more characters are cut at a word."""
    failed: Literal["leave-out", "keep", "refuse"] = "leave-out"
    """Images without a caption: left out, kept with an empty caption (csv, tsv, jsonl, lance, delta, iceberg), or a
    reason to stop."""
    root: str = ""
    """Folder of the images whose place OUTPUT takes: /photos/2024/a.jpg below --root /photos is 2024/a.jpg.
    Default: the innermost folder that they have in common."""
    copy_images: bool = False
    """Copy the images, byte for byte, beside their captions (imagefolder, txt), or into the new shards (webdataset)."""
    embed: bool = False
    """Captions within copies of the JPEG images rather than in sidecars (xmp): in XMP and EXIF."""
    in_place: str = ""
    """Change the files where they lie (xmp): sidecars, or with --embed the local JPEG images themselves. Names the undo
    file, a new one on the local disk; `captionkit undo FILE` puts everything back."""
    overwrite: bool = False
    """Write over what is there: files, and fields of sidecars that hold something."""
    dry_run: bool = False
    """Write nothing; say what would be written."""
    rows_per_file: int = 1000
    """Images of a Parquet file (huggingface)."""
    threads: int = 16
    """Files read or written at a time, where each image has its own."""
    json: bool = False
    """Report as JSON, for programs."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        """Raises ValueError for options that do not go together."""
        if not self.output and self.format not in BESIDE:
            raise ValueError(f"--as {self.format} needs an address to write to")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"--max-length {self.max_length}: at least 1")
        for name, value in (("rows-per-file", self.rows_per_file), ("threads", self.threads)):
            if value < 1:
                raise ValueError(f"--{name} {value}: at least 1")
        if self.failed == "keep" and self.format not in KEEPS_FAILED:
            raise ValueError(f"--failed keep: --as {self.format} has no place for an image without a caption")
        if self.copy_images and self.format not in COPIES:
            raise ValueError(f"--copy-images goes with --as {', '.join(COPIES)}")
        if self.copy_images and not self.output:
            raise ValueError("--copy-images needs a folder to copy into")
        if self.embed and (self.format != "xmp" or not (self.output or self.in_place)):
            raise ValueError("--embed goes with --as xmp and a folder for the copies, or --in-place UNDO_FILE")
        if self.in_place and (self.format != "xmp" or self.output):
            raise ValueError("--in-place goes with --as xmp, and without an output")
        if self.columns and self.format not in CHOOSES:
            raise ValueError(f"--columns goes with --as {', '.join(CHOOSES)}")
        if self.root and not self.output:
            raise ValueError("--root goes with a folder to write into")


def chosen_columns(options: ExportOptions, default: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """What `--columns` asks for, or the default: from the name to be written to the column it is taken from.

    Raises:
        UsageError: a name without a column, or one name twice.
    """
    pairs = default
    if options.columns:
        parts = [part.strip() for text in options.columns for part in text.split(",") if part.strip()]
        split = [part.rpartition("=") if "=" in part else (part, "=", part) for part in parts]
        pairs = tuple((name.strip(), column.strip()) for name, _, column in split)
        if not all(name and column for name, column in pairs):
            raise UsageError("--columns: write NAME=COLUMN, or COLUMN where it keeps its name")
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--columns: {', '.join(twice)} twice")
    return dict(pairs)

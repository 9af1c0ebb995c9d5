"""What `--input` and its companions say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captionkit.errors import UsageError
from captionkit.images import Limits

Format = Literal["auto", "images", "list", "webdataset", "parquet"]
Existing = Literal["keep", "replace", "skip"]
KEY_COLUMN = "__key__"
"""WebDataset's name for what the members of one sample share; can be carried."""


@dataclass(frozen=True)
class InputOptions:
    """What to caption."""

    input: tuple[str, ...]
    """Addresses of images: a prefix, a glob, an image, a list (lines, CSV, TSV, JSON, JSON lines, Parquet, told
    by content), tar shards, Parquet with image bytes, the manifest.json of an S3 Inventory; local, s3://, https:// or
    any scheme whose fsspec package is installed."""
    format: Format = "auto"
    """What the inputs are, where it should not be told from names and contents."""
    uri_column: str = "uri"
    """The column of a list that holds the addresses. Default: `uri`, else a usual name such as `url`, `path` or
    `file_name`; where several would do, the log says which was taken."""
    image_column: str | None = None
    """The column of Parquet inputs that holds image bytes, or Hugging Face's struct of bytes and path. Default:
    `image`, or the only such column."""
    carry: tuple[str, ...] = ()
    """Columns of lists and Parquet inputs to carry into the caption table, captions that exist among them; of shards
    `__key__`, `txt`, `json` and `caption`: the text of a sample's member with that suffix, or `json.FIELD`, a field of
    it. COLUMN=NAME stores it under another name: caption=old_caption. One whose name the table has itself is stored
    with `input_` before it: input_caption."""
    existing: Existing = "replace"
    """What becomes of an image that brings a caption with it, in a carried column: `replace`: it is captioned as any
    other. `keep`: it is captioned, and its own caption stays the caption of its row, the captioner's first among the
    alternatives. `skip`: it is neither decoded nor captioned, and its own caption is that of its row. The `model` of
    captions that came so is `input`."""
    existing_column: str | None = None
    """The carried column, as --carry names it, that holds these captions. Default: the only one."""
    stat_listed: bool = True
    """Ask for size and date of every address in a list, so that a rerun notices changed images. Off, a listed
    address counts as done once it is in the table."""
    dedupe: bool = False
    """Caption images of one content once, and give each address a row with that caption. What is of one content, S3's
    listing says (an ETag that is a hash, with the size), and of files on disk their hash; those are not read again.
    Images on the web, and others of which no listing tells, are fetched, told by the hash of their bytes, and not
    decoded again. With --frame each, files that may have pages are read each."""
    list_again: bool = False
    """List the inputs anew where a run that died or was stopped has left its listing for this command to go on with
    (one that took over a minute, for up to a week)."""
    max_megapixels: float = 250.0
    """Images of more megapixels than this become failed rows; told from the header, before any pixel is read."""
    max_megabytes: float = 256.0
    """The same for the size of the encoded image, in MB."""
    decode_seconds: float = 30.0
    """The longest that decoding one image may take; a slower one becomes a failed row."""

    frame: Literal["first", "middle", "best", "each"] = "first"
    """Which frame of an animation, page of a TIFF or PDF, or frame of a DICOM film is captioned: the first, the middle
    one, or of up to 8 evenly spread ones the one with the most in it (the highest entropy of its greys). `each`: every
    one, as a row of its own with an address of its own, scan.tif#page=3."""

    def carried(self) -> dict[str, str]:
        """What each carried column is called in the table, by its name in the inputs.

        Raises:
            UsageError: two would have one name, or one a name of the table's own.
        """
        from captionkit.schema import is_reserved, stored_name

        names: dict[str, str] = {}
        for text in self.carry:
            column, renamed, name = text.rpartition("=")
            source = column if renamed else text
            if renamed and (not column or not name):
                raise UsageError(f"--carry {text}: expected COLUMN, or COLUMN=NAME to store it under another name")
            if renamed and is_reserved(name):
                raise UsageError(
                    f"--carry {text}: `{name}` is a column of the caption table itself; give another name, as in "
                    f"{column}=old_{name}"
                )
            stored = name if renamed else stored_name(text)
            if stored in names.values() and names.get(source) != stored:
                raise UsageError(f"--carry {' '.join(self.carry)}: two columns would be called `{stored}` in the table")
            if names.setdefault(source, stored) != stored:
                raise UsageError(f"--carry {' '.join(self.carry)}: `{source}` twice, under two names")
        return names

    def existing_stored(self) -> str | None:
        """The column of the table with the captions that images bring, where these are kept or skipped for.

        Raises:
            UsageError: `--carry` does not say which that is.
        """
        if self.existing == "replace":
            return None
        columns = {source: name for source, name in self.carried().items() if source != KEY_COLUMN}
        if (self.existing_column or next(iter(columns), "")) == "json":
            raise UsageError(
                f"--existing {self.existing}: a sample's whole JSON is no caption; name its field: --carry json.caption"
            )
        if self.existing_column is not None and self.existing_column in columns:
            return columns[self.existing_column]
        if self.existing_column is None and len(columns) == 1:
            return next(iter(columns.values()))
        what = f"--existing-column {self.existing_column}" if self.existing_column else f"--existing {self.existing}"
        raise UsageError(
            f"{what}: name the column of captions that images bring with --carry, and with --existing-column where "
            f"several are carried (carried: {', '.join(self.carry) or 'none'})"
        )

    def limits(self) -> Limits:
        """What an image may be: bytes and pixels; and which frame is looked at, where no address says so."""
        return Limits(
            max_bytes=int(self.max_megabytes * 1e6),
            max_pixels=int(self.max_megapixels * 1e6),
            frame="first" if self.frame == "each" else self.frame,
        )

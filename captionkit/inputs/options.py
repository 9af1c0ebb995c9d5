"""What `--input` and its companions say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captionkit.images import Limits

Format = Literal["auto", "images", "list", "webdataset", "parquet"]


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
    `__key__`, `txt`, `json` and `caption`: the text of a sample's member with that suffix. One whose name the table has
    itself is stored with `input_` before it: input_caption."""
    stat_listed: bool = True
    """Ask for size and date of every address in a list, so that a rerun notices changed images. Off, a listed
    address counts as done once it is in the table."""
    dedupe: bool = False
    """Read and caption images of one content once, and give each address a row with that caption. What is of one
    content, S3's listing says (an ETag that is a hash, with the size), and of files on disk their hash."""
    list_again: bool = False
    """List the inputs anew where a run that died or was stopped has left its listing for this command to go on with
    (one that took over a minute, for up to a week)."""
    max_megapixels: float = 250.0
    """Images of more megapixels than this become failed rows; told from the header, before any pixel is read."""
    max_megabytes: float = 256.0
    """The same for the size of the encoded image, in MB."""
    decode_seconds: float = 30.0
    """The longest that decoding one image may take; a slower one becomes a failed row."""

    frame: Literal["first", "middle", "best"] = "first"
    """Which frame of an animation, page of a TIFF or PDF, or frame of a DICOM film is captioned: the first, the middle
    one, or of up to 8 evenly spread ones the one with the most in it (the highest entropy of its greys)."""

    def limits(self) -> Limits:
        """What an image may be: bytes and pixels; and which frame of it is looked at."""
        return Limits(
            max_bytes=int(self.max_megabytes * 1e6), max_pixels=int(self.max_megapixels * 1e6), frame=self.frame
        )

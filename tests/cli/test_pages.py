"""Pages made by commands."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from captionkit.cli import OK, USAGE, main
from captionkit.pipeline.run_record import RunRecord
from captionkit.storage import Storage
from tests.export.table import make_table
from tests.support.table_rows import rows, write


def test_a_page_shows_the_column_that_was_captioned(tmp_path: Path) -> None:
    def jpeg(colour: str) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(buffer, "JPEG")
        return buffer.getvalue()

    source, table = tmp_path / "source.parquet", tmp_path / "captions"
    pq.write_table(pa.table({"img": [jpeg("blue")], "photo": [jpeg("red")]}), source)
    write(table, rows([f"{source}#0"], container_rows=1))
    RunRecord("r", {"image_column": "photo"}, {}).write(Storage(), f"{table}/_runs/r.parquet")
    assert main(["gallery", str(table), "--page", str(tmp_path / "page.html")]) == OK
    (shown,) = re.findall(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", (tmp_path / "page.html").read_text())
    red, _, blue = Image.open(io.BytesIO(base64.b64decode(shown))).convert("RGB").getpixel((9, 9))
    assert red > 200 > 60 > blue


def test_captions_that_images_brought_stand_beside_the_captioners(tmp_path: Path) -> None:
    make_table(tmp_path / "t", {"/a.jpg": "a dog", "/b.jpg": "a cat"}, {"old": ["a wolf", None]})
    assert main(["gallery", str(tmp_path / "t"), "--against", "column:old", "--page", str(tmp_path / "p.html")]) == OK
    assert re.findall(r'class="before"[^>]*>([^<]*)', (tmp_path / "p.html").read_text()) == ["a wolf "]
    assert main(["gallery", str(tmp_path / "t"), "--against", "column:score"]) == USAGE
    assert main(["gallery", str(tmp_path / "t"), "--against", str(tmp_path)]) == USAGE


def test_a_page_shows_the_frame_that_was_captioned(tmp_path: Path) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    images[0].save(tmp_path / "scan.tif", save_all=True, append_images=images[1:])
    uris = [f"{tmp_path}/scan.tif#page=3", f"{tmp_path}/scan.tif"]
    write(tmp_path / "t", rows(uris, run_id="middle"), rows([f"{tmp_path}/./scan.tif"], run_id="first"))
    RunRecord("middle", {"frame": "middle"}, {}).write(Storage(), f"{tmp_path}/t/_runs/middle.parquet")
    assert main(["gallery", str(tmp_path / "t"), "--page", str(tmp_path / "page.html")]) == OK
    shown = re.findall(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", (tmp_path / "page.html").read_text())
    found = [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB").getpixel((9, 9)) for each in shown]
    assert sorted(np.argmax(pixel) for pixel in found) == [0, 1, 2]

"""Candidate captions: by a captioner, with features computed once; from a caption table; from a results file."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from captionkit import Captioner
from captionkit.errors import UsageError
from captionkit.evaluation.candidates import make_captions, read_captions, read_results
from captionkit.images import decode
from captionkit.model.search.options import SearchOptions
from captionkit.schema import SCHEMA
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable, Footer, to_parquet

SEARCHES = {"greedy": SearchOptions(beam=1), "beam 4": SearchOptions(beam=4, max_length=12)}


def test_each_search_gives_the_captioner_s_captions_and_features_are_computed_once(
    scenes: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [str(path) for path in sorted(scenes.glob("*.jpg"))]
    pixels = np.stack([decode(Path(image).read_bytes(), captioner.preprocessing).pixels for image in images])
    expected = {
        name: dict(zip(images, (found[0].text for found in captioner.caption_pixels(pixels, options)), strict=True))
        for name, options in SEARCHES.items()
    }
    looked_at: list[int] = []
    encode = captioner.encode

    def counted(batch: Any) -> Any:
        looked_at.append(len(batch))
        return encode(batch)

    monkeypatch.setattr(captioner, "encode", counted)
    made = make_captions(captioner, images, SEARCHES, Storage(), batch_size=2)
    assert made.captions == expected
    assert looked_at == [2, 2, 1]
    assert made.missing == {}
    assert set(made.seconds) == set(SEARCHES)
    assert min(made.seconds.values()) > 0


def test_a_picture_that_cannot_be_read_has_the_empty_caption_and_a_reason(
    scenes: Path, captioner: Captioner, tmp_path: Path
) -> None:
    good, gone, bad = str(next(scenes.glob("*.jpg"))), str(tmp_path / "gone.jpg"), str(tmp_path / "bad.jpg")
    Path(bad).write_bytes(b"no picture")
    made = make_captions(captioner, [gone, good, bad], SEARCHES, Storage(), batch_size=1)
    for captions in made.captions.values():
        assert list(captions) == [gone, good, bad]
        assert captions[good]
        assert captions[gone] == captions[bad] == ""
    assert made.missing[gone].startswith("not_found: ")
    assert made.missing[bad].startswith("not_an_image: ")


def write_table(folder: Path, rows: list[tuple[str, str | None]]) -> CaptionTable:
    """A caption table of these addresses; a row without a caption has failed."""
    columns = [
        {
            "uri": uri,
            "image_id": number,
            "status": "captioned" if caption is not None else "failed",
            "caption": caption,
            "error_kind": None if caption is not None else "truncated",
            "error": None if caption is not None else "cut short",
            "model": "m1",
            "run_id": "r1",
            "captioned_at": datetime(2026, 11, 21, tzinfo=timezone.utc),
        }
        for number, (uri, caption) in enumerate(rows)
    ]
    folder.mkdir(exist_ok=True)
    data = to_parquet(pa.Table.from_pylist(columns, SCHEMA), Footer("m1", {}, {}))
    (folder / "part.parquet").write_bytes(data)
    return CaptionTable(str(folder), Storage())


def test_a_tables_rows_are_found_by_address_or_else_by_file_name(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "table",
        [
            ("/photos/a.jpg", "at the address"),
            ("s3://elsewhere/a.jpg", "of the same name"),
            ("s3://archive/x.tar#2024/b.jpg", "in a shard"),
            ("s3://elsewhere/c.jpg", None),
            ("/photos/e.jpg", ""),
            ("/photos/other.jpg", "nobody asked"),
        ],
    )
    images = [f"/photos/{name}.jpg" for name in "abcde"]
    made = read_captions(table, images)
    assert made.captions == {"table": dict(zip(images, ["at the address", "in a shard", "", "", ""], strict=True))}
    assert made.missing == {
        "/photos/c.jpg": "truncated: cut short",
        "/photos/d.jpg": "not in the table",
        "/photos/e.jpg": "an empty caption",
    }


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", [("s3://one/a.jpg", "one"), ("s3://two/a.jpg", "two"), ("/c.jpg", "c")])
    with pytest.raises(UsageError, match=r"'a\.jpg' is ambiguous: s3://one/a\.jpg, s3://two/a\.jpg in the table"):
        read_captions(table, ["/photos/a.jpg"])
    with pytest.raises(UsageError, match=r"/photos/x/c\.jpg, /photos/y/c\.jpg in the corpus"):
        read_captions(table, ["/photos/x/c.jpg", "/photos/y/c.jpg"])
    with pytest.raises(UsageError, match="no caption for any image"):
        read_captions(table, ["/photos/z.jpg"])


def test_cocos_results_are_found_by_the_corpuss_ids(tmp_path: Path) -> None:
    keys = {"/a.jpg": "1", "/b.jpg": "b", "/c.jpg": "3", "/d.jpg": "4"}
    rows = [(1, "by number"), ("b", "by text"), (3.0, "by float"), (99, "nobody asked")]
    file = tmp_path / "results.json"
    file.write_text(json.dumps([{"image_id": key, "caption": caption} for key, caption in rows]))
    made = read_results(str(file), keys, Storage())
    assert made is not None
    assert made.captions == {"table": {"/a.jpg": "by number", "/b.jpg": "by text", "/c.jpg": "by float", "/d.jpg": ""}}
    assert made.missing == {"/d.jpg": "not in the results"}
    with pytest.raises(UsageError, match="no caption for any image of the corpus, such as '7'"):
        read_results(str(file), {"/x.jpg": "7"}, Storage())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 2}]', "item 2: expected an object"),
        ('[{"image_id": 1, "caption": 5}]', "item 1: expected an object"),
        ('[{"caption": "a"}]', "item 1: expected an object"),
        ('[{"image_id": 1, "caption": "a"}, 1]', "item 2: expected an object"),
        ('[{"image_id": 1, "caption": "a"}, {"ima', "invalid or truncated JSON"),
    ],
)
def test_results_of_another_form_say_where(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_results(str(tmp_path / "results.json"), {"/a.jpg": "1"}, Storage())


def test_what_is_no_json_array_is_no_results_file(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"image_id": 1, "caption": "a"}')
    assert read_results(str(tmp_path / "table.json"), {"/a.jpg": "1"}, Storage()) is None

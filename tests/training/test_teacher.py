"""Reading a teacher's captions."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from captionkit.errors import UsageError
from captionkit.schema import SCHEMA
from captionkit.storage import Storage
from captionkit.table.table import Footer, to_parquet
from captionkit.training.teacher import read_teacher_captions

REFERENCES = [
    ("a.jpg", ("a dog runs on the grass", "the brown dog runs")),
    ("b.jpg", ("two men climb a rock",)),
    ("c.jpg", ("a girl swims",)),
]


def write(folder: Path, captions: dict[str, list[str | None]]) -> str:
    """A caption table: each image's caption and its alternatives."""
    rows: list[dict[str, Any]] = [
        {
            "uri": uri,
            "image_id": number,
            "status": "captioned" if texts[0] else "failed",
            "caption": texts[0],
            "alternatives": [{"caption": text, "score": -1.0} for text in texts[1:]],
            "model": "m1",
            "run_id": "r1",
            "captioned_at": datetime(2026, 11, 23, tzinfo=timezone.utc),
        }
        for number, (uri, texts) in enumerate(captions.items())
    ]
    data = to_parquet(pa.Table.from_pylist(rows, SCHEMA), Footer("m1", {}, {}))
    (folder / "part.parquet").write_bytes(data)
    return str(folder)


def test_the_captions_nearest_to_the_references_are_taken(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        {
            "a.jpg": ["a cat sits", "the brown dog runs on the grass", "a dog runs", "a dog runs"],
            "b.jpg": [None],
            "other.jpg": ["a girl swims"],
        },
    )
    teacher = read_teacher_captions(REFERENCES, [table], 2, Storage())
    # Of a.jpg the caption itself is the worst; b.jpg failed, c.jpg is not in the table: they keep their references.
    assert teacher.captions == [("a.jpg", ("the brown dog runs on the grass", "a dog runs")), *REFERENCES[1:]]
    assert "2 captions of 1 of 3 training images" in teacher.report
    [(_, all_of_them), *_] = read_teacher_captions(REFERENCES, [table], 9, Storage()).captions
    assert all_of_them == ("the brown dog runs on the grass", "a dog runs", "a cat sits")


def test_several_tables_are_one(tmp_path: Path) -> None:
    for name, text in (("one", "a dog runs on grass"), ("two", "the brown dog runs")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, {"a.jpg": [text]})
    tables = [str(tmp_path / name) for name in ("one", "two")]
    [(_, best), *_] = read_teacher_captions(REFERENCES, tables, 1, Storage()).captions
    assert best == ("the brown dog runs",)
    [(_, both), *_] = read_teacher_captions(REFERENCES, tables, 2, Storage()).captions
    assert both == ("the brown dog runs", "a dog runs on grass")


@pytest.mark.parametrize("captions", [{}, {"other.jpg": ["a girl swims"]}])
def test_a_table_of_other_images_is_refused(captions: dict[str, list[str | None]], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good, other = write(tmp_path / "good", {"a.jpg": ["a dog"]}), write(tmp_path, captions)
    with pytest.raises(UsageError, match=r"has no caption for any training image, such as a\.jpg"):
        read_teacher_captions(REFERENCES, [good, other], 2, Storage())

"""Where a caption is cut, and where an image's path leads."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionkit.export.rows import common_folder, relative_path, shortened
from captionkit.schema import SCHEMA
from captionkit.table.table import Footer, to_parquet
from tests.export.table import STORAGE, make_table, picture, run
from tests.support.table_rows import rows


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [
        ("a dog runs", 10, "a dog runs"),
        ("a dog runs", 9, "a dog"),
        ("a dog runs", 5, "a dog"),
        ("a dog, a cat", 7, "a dog"),
        ("incomprehensibilities", 5, "incom"),
        ("  a dog  ", 5, "a dog"),
        ("犬が走っている", 3, "犬が走"),
        ("cafe\u0301s are", 4, "caf"),
        ("", 3, ""),
    ],
)
def test_captions_are_cut_at_a_word(text: str, length: int, short: str) -> None:
    assert shortened(text, length) == short


@given(st.text(), st.integers(1, 30))
def test_a_cut_caption_is_never_too_long_and_never_another_text(text: str, length: int) -> None:
    short = shortened(text, length)
    assert len(short) <= length
    assert text.strip().startswith(short)
    assert short or not text.strip()


@pytest.mark.parametrize(
    ("low", "high", "folder"),
    [
        ("/p/2023/a.jpg", "/p/2024/b.jpg", "/p/"),
        ("/p/a.jpg", "/p/a.jpg", "/p/"),
        ("s3://bucket/a", "s3://bucket/b", "s3://bucket/"),
        ("s3://bucket1/a", "s3://bucket2/b", ""),
        ("/p/s.tar#x/1.jpg", "/p/s.tar#x/2.jpg", "/p/"),
        ("/p/s1.tar#x/1.jpg", "/p/s2.tar#x/2.jpg", "/p/"),
        ("/a.jpg", "s3://b/c", ""),
    ],
)
def test_the_folder_that_all_images_share(low: str, high: str, folder: str) -> None:
    assert common_folder(low, high) == folder


@pytest.mark.parametrize(
    ("uri", "root", "path"),
    [
        ("/p/2024/a.jpg", "/p/", "2024/a.jpg"),
        ("/q/a.jpg", "/p/", "q/a.jpg"),
        ("s3://bucket/x/a.jpg", "", "bucket/x/a.jpg"),
        ("/p/s.tar#in/a.jpg", "/p/", "s.tar/in/a.jpg"),
        ("/p/s.tar#../../etc/cron.d/x", "/p/", "s.tar/__/__/etc/cron.d/x"),
        ("/p/s.tar#/etc/./x", "/p/", "s.tar/etc/x"),
        ("s3://bucket/../a", "s3://bucket/", "__/a"),
    ],
)
def test_no_path_leads_out_of_the_output(uri: str, root: str, path: str) -> None:
    assert relative_path(uri, root) == path


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        made = rows([f"/photos/{n:07d}.jpg" for n in range(10_000)]).select(SCHEMA.names)
        table = tmp_path / f"t{count}"
        for number in range(count):
            STORAGE.write(f"{table}/captions-r-{number:05d}.parquet", to_parquet(made, Footer("ck-0", {}, {})))
        del made
        tracemalloc.start()
        report = run(table, tmp_path / f"{count}.csv", "csv", columns=("uri,caption,score",))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.written == count * 10_000
        return used

    small = peak(1)
    assert peak(6) < 1.5 * small
    assert pa.total_allocated_bytes() < 50_000_000


def test_a_pages_name_says_which_of_its_file(tmp_path: Path) -> None:
    uris = ("/p/scan.tif#page=3", "/p/a.tar#x/scan.tif#page=2")
    table = make_table(tmp_path / "t", dict.fromkeys(uris, "a page"))
    run(table.uri, tmp_path / "out.csv", "csv", columns=("file_name", "stem", "path"))
    found = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert found == [
        "scan.tif#page=3,scan#page=3,scan.tif#page=3",
        "scan.tif#page=2,scan#page=2,a.tar/x/scan.tif#page=2",
    ]


def test_a_page_is_no_file_to_be_copied(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    table = make_table(tmp_path / "t", {f"{tmp_path}/scan.tif#page=3": "a page", f"{tmp_path}/a.jpg": "a dog"})
    report = run(table.uri, tmp_path / "out", "huggingface")
    assert (report.written, report.ok) == (1, True)
    report = run(table.uri, tmp_path / "shards", "webdataset")
    assert report.left_out["a page of a file, for which a sample has no place"] == 1

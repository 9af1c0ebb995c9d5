import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from captionkit.errors import UsageError
from captionkit.schema import FAILED
from captionkit.storage import Storage
from captionkit.table import failures as failures_module
from captionkit.table.failures import failed_rows, failures
from captionkit.table.table import CaptionTable
from tests.support.table_rows import rows, write

STORAGE = Storage()


def failed(uris: list[str], kind: str, error: str, **extra: Any) -> pa.Table:
    """Failed rows; `{}` in the error stands for the address."""
    parts = [
        rows([uri], status=FAILED, caption=None, error_kind=kind, error=error.format(uri), **extra) for uri in uris
    ]
    return pa.concat_tables(parts)


@pytest.fixture
def table(tmp_path: Path) -> CaptionTable:
    return write(
        tmp_path / "t",
        rows([f"/good/{n}.jpg" for n in range(10)]),
        failed([f"/bad/{n}.jpg" for n in range(4)], "timeout", "{}: no answer in time"),
        failed(["/bad/other.jpg"], "timeout", "{}: no answer after 17 s"),
        failed(["/s.tar#a.jpg", "/s.tar#b.jpg"], "truncated", "ends after 1,234 bytes"),
        failed(["/bad/x.jpg"], "truncated", "ends after 77 bytes"),
        rows(["/last.jpg"]),
    )


def test_failures_are_grouped_with_shares_reasons_folders_and_examples(table: CaptionTable) -> None:
    found = failures(table.uri, STORAGE)
    assert (found.rows, found.failed) == (19, 8)
    timeout, truncated = found.groups
    assert (timeout.kind, timeout.count, timeout.share) == ("timeout", 5, 5 / 19)
    assert timeout.reasons == {"no answer in time": 4, "no answer after N s": 1}
    assert timeout.folders == {"/bad/": 5}
    assert {example["uri"] for example in timeout.examples[:2]} == {"/bad/0.jpg", "/bad/other.jpg"}
    assert timeout.examples[0] == {"uri": "/bad/0.jpg", "error": "/bad/0.jpg: no answer in time"}
    assert len(timeout.examples) == 5
    assert (truncated.kind, truncated.count) == ("truncated", 3)
    assert truncated.reasons == {"ends after N bytes": 3}
    assert truncated.folders == {"/s.tar": 2}


def test_it_reads_as_text_and_as_json(table: CaptionTable) -> None:
    found = failures(table.uri, STORAGE, examples=2)
    text = found.text()
    assert "8 of 19 rows failed (42.11%)" in text
    assert text.index("5 × timeout (26.32%") < text.index("3 × truncated (15.79%")
    assert "4 × no answer in time" in text
    assert "2 × /s.tar" in text
    assert "/bad/0.jpg: no answer in time" in text
    assert "--retry-failed" in text
    data = json.loads(json.dumps(found.to_json()))
    assert [group["count"] for group in data["groups"]] == [5, 3]
    assert [len(group["examples"]) for group in data["groups"]] == [2, 2]


def test_a_table_without_failures_and_a_folder_without_a_table(tmp_path: Path) -> None:
    write(tmp_path / "t", rows(["/a.jpg"]))
    found = failures(str(tmp_path / "t"), STORAGE)
    assert found.groups == []
    assert found.text().endswith("0 of 1 row failed (0.00%)")
    with pytest.raises(UsageError, match="holds no caption table"):
        failures(str(tmp_path / "nothing"), STORAGE)


def test_many_folders_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures_module, "FOLDERS", 10)
    scattered = [f"/{n}/a.jpg" for n in range(40)]
    write(
        tmp_path,
        failed([f"/full/{n}.jpg" for n in range(5)], "timeout", "{}: late"),
        failed(scattered, "timeout", "{}: late"),
        failed(["/full/z.jpg"], "timeout", "{}: late"),
    )
    (group,) = failures(str(tmp_path), STORAGE).groups
    assert group.count == 46
    assert group.folders == {"/full/": 6}


def test_dropped_failures_are_missing_and_nothing_else_is(table: CaptionTable) -> None:
    assert table.drop(failed_rows(table, ["truncated"])) == 3
    left = CaptionTable(table.uri, STORAGE)
    assert [group.kind for group in failures(left.uri, STORAGE).groups] == ["timeout"]
    assert left.drop(failed_rows(left)) == 5
    after = list(CaptionTable(table.uri, STORAGE).rows(["uri", "status"]))
    assert {row["status"] for row in after} == {"captioned"}
    assert len(after) == 11


def test_a_kind_that_there_is_not(table: CaptionTable) -> None:
    with pytest.raises(UsageError, match="no kind of failure is called tired; there are: not_found"):
        list(failed_rows(table, ["tired"]))


def test_pages_that_failed_lie_in_their_files_folder(tmp_path: Path) -> None:
    pages = ["/p/a.tif#page=1", "/p/b.tif#page=2", "/s.tar#x.tif#page=3", "/s.tar#y.tif#page=1"]
    table = write(tmp_path / "t", failed(pages, "corrupt", "broken"))
    (group,) = failures(table.uri, STORAGE).groups
    assert group.folders == {"/p/": 2, "/s.tar": 2}

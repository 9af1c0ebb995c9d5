"""A run that goes on after a death, or a stop, with what was listed before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.cli import BROKEN, OK, main
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline import kept_listing
from captionkit.pipeline.kept_listing import KeptListing
from captionkit.storage import Storage, StorageError
from captionkit.table.check import check
from tests.support.archive import Folder, tar_bytes
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import S3Server

STORAGE = Storage()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any listing is long enough to be kept, and its files are small."""
    monkeypatch.setattr(kept_listing, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(kept_listing, "FILE_ITEMS", 2)


def options(*addresses: str, carry: tuple[str, ...] = (), list_again: bool = False) -> InputOptions:
    return InputOptions(addresses, carry=carry, list_again=list_again)


def listed(table: Path, asked: InputOptions, share: str = "") -> tuple[list[InputItem], Inputs]:
    """The items, carried columns that are null left out, as the manifest has them; and what was met on the way."""
    inputs = Inputs(asked, STORAGE)
    items = KeptListing(inputs, STORAGE, str(table), share).items()
    return [
        item._replace(carried={name: value for name, value in item.carried.items() if value is not None})
        for item in items
    ], inputs


def kept(table: Path) -> list[Path]:
    return sorted(table.parent.glob(f"{table.name}-listing/*"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "captions"


def test_items_of_folders_are_the_same_as_those_that_were_listed(folder: Folder, table: Path) -> None:
    for number in range(3):
        folder.add(f"{number}.jpg", b"1")
    folder.add("notes.txt", b"none")
    folder.add("s.tar", tar_bytes([("a.jpg", b"1")]))
    taken = pa.array([1, 2], pa.timestamp("ms"))
    pq.write_table(pa.table({"image": [b"1", b"2"], "taken": taken}), folder.path / "p.parquet", row_group_size=1)
    asked = options(str(folder.path), carry=("taken",))
    first, inputs = listed(table, asked)
    assert [item.kind for item in first].count("image") == 3
    assert (1, 1) in [item.row_groups for item in first]
    assert len(kept(table)) == 3
    folder.add("new.jpg", b"1")
    again, restored = listed(table, asked)
    assert again == first
    assert restored.ignored == inputs.ignored == {".txt": 1}
    assert restored.carry_types == inputs.carry_types == {"taken": pa.timestamp("ms")}
    assert len(listed(table, options(str(folder.path), carry=("taken",), list_again=True))[0]) == len(first) + 1


def test_items_of_lists_are_the_same_as_those_that_were_listed(folder: Folder, table: Path) -> None:
    a = folder.add("a.jpg", b"1")
    asked = options(folder.add("list.csv", f"url,label,path\n{a},ä,x\n,,\n/none.jpg,b,y\n".encode()), carry=("label",))
    first, inputs = listed(table, asked)
    assert [item.carried for item in first] == [{"label": "ä"}, {"label": "b"}]
    again, restored = listed(table, asked)
    assert again == first
    assert (restored.blank, restored.notes) == (inputs.blank, inputs.notes)
    assert restored.blank == len(restored.notes) == 1


def test_a_listing_is_of_one_command(folder: Folder, table: Path) -> None:
    folder.add("a.jpg", b"1")
    listed(table, options(str(folder.path)))
    folder.add("b.jpg", b"1")
    assert len(listed(table, options(f"{folder.path}/"))[0]) == 1  # the same address
    assert len(listed(table, options(str(folder.path)), "1/2")[0]) == 2
    assert len(listed(table, options(f"{folder.path}/*"))[0]) == 2
    assert len(listed(table.parent / "other", options(str(folder.path)))[0]) == 2


def test_the_end_of_a_run_deletes_it(folder: Folder, table: Path) -> None:
    folder.add("a.jpg", b"1")
    listing = KeptListing(Inputs(options(str(folder.path)), STORAGE), STORAGE, str(table))
    list(listing.items())
    assert kept(table)
    listing.forget()
    assert not (table.parent / "captions-listing").exists()


def test_a_listing_that_was_not_finished_is_not_kept(
    folder: Folder, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionkit.storage.local.FEWEST", 1)
    monkeypatch.setattr("captionkit.storage.local.MOST", 1)
    for number in range(5):
        folder.add(f"{number}.jpg", b"1")
    items = KeptListing(Inputs(options(str(folder.path)), STORAGE), STORAGE, str(table)).items()
    for _ in range(3):
        next(items)
    assert kept(table)
    items.close()  # type: ignore[attr-defined]
    assert not kept(table)


@pytest.mark.parametrize("change", ["cut", "lost", "old"])
def test_what_is_not_whole_or_old_is_listed_anew(folder: Folder, table: Path, change: str) -> None:
    for number in range(5):
        folder.add(f"{number}.jpg", b"1")
    listed(table, options(str(folder.path)))
    folder.add("new.jpg", b"1")
    *_, last = files = kept(table)
    if change == "cut":
        last.write_bytes(last.read_bytes()[:99])
    elif change == "lost":
        files[0].unlink()
    else:
        batches = pa.ipc.open_file(last).read_all()
        facts = json.loads(batches.schema.metadata[b"captionkit.listing"])
        before = datetime.now(timezone.utc) - timedelta(days=8)
        metadata = {"captionkit.listing": json.dumps(facts | {"listed_at": before.isoformat()})}
        with pa.ipc.new_file(str(last), batches.schema.with_metadata(metadata)) as writer:
            writer.write_table(batches.replace_schema_metadata(metadata))
    assert len(listed(table, options(str(folder.path)))[0]) == 6


def test_a_short_listing_is_not_kept(folder: Folder, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_listing, "KEEP_SECONDS", 60.0)
    for number in range(5):
        folder.add(f"{number}.jpg", b"1")
    listed(table, options(str(folder.path)))
    assert not kept(table)


def test_no_secret_of_an_address_is_written(folder: Folder, table: Path) -> None:
    addresses = [f"https://h.example/{number}.jpg" for number in range(3)] + ["https://u:pa55@h.example/3.jpg"]
    asked = InputOptions((folder.add("list.txt", "\n".join(addresses).encode()),), stat_listed=False)
    assert [item.uri for item in listed(table, asked)[0]] == addresses
    assert not kept(table)


def test_a_place_that_cannot_be_written_costs_no_run(
    folder: Folder, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("permission", "cannot write there")

    for number in range(5):
        folder.add(f"{number}.jpg", b"1")
    monkeypatch.setattr(Storage, "write", refuse)
    assert len(listed(table, options(str(folder.path)))[0]) == 5
    assert capsys.readouterr().err.count("the listing is not kept") == 1


def test_a_table_that_is_a_bucket_has_no_place_beside_it(folder: Folder) -> None:
    folder.add("a.jpg", b"1")
    inputs = Inputs(options(str(folder.path)), STORAGE)
    assert len(list(KeptListing(inputs, STORAGE, "s3://bucket").items())) == 1


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_broke_lists_nothing_again(
    s3: S3Server, bucket: str, proxy: FaultProxy, pictures: list[bytes]
) -> None:
    for number in range(12):
        s3.client().put_object(Bucket=bucket, Key=f"in/{number:02}.jpg", Body=pictures[number])
    output = f"s3://{bucket}/out/captions"
    command = ["caption", "--endpoint-url", proxy.endpoint, "--beam", "1", "--input", f"s3://{bucket}/in/"]

    def listings() -> int:
        asked = [one for one in proxy.requests if "list-type" in one and "prefix=in" in one]
        proxy.requests.clear()
        return len(asked)

    proxy.fault("status", r"GET .*/0[6-9]\.jpg", status=400, code="ExpiredToken")
    assert main([*command, "--output", output]) == BROKEN
    assert listings() == 2  # the look and the listing
    proxy.clear()
    assert STORAGE.is_folder(f"{output}-listing")
    s3.client().put_object(Bucket=bucket, Key="in/new.jpg", Body=pictures[0])
    assert main([*command, "--output", output]) == OK
    assert listings() == 1  # the look
    assert not STORAGE.is_folder(f"{output}-listing")
    assert main([*command, "--output", output]) == OK
    assert listings() == 2
    report = check(output, STORAGE)
    assert (report.ok, report.rows) == (True, 13), report.text()

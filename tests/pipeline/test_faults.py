"""Whole jobs on storage that has a bad day, through a proxy before a real S3 server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from captionkit.cli import BROKEN, OK, USAGE, main
from captionkit.images import Limits, Preprocessing
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.fetch import FetchOptions, fetch_unit
from captionkit.pipeline.manifest import make_manifest
from captionkit.storage import FAULTS, Storage, StorageOptions
from captionkit.storage.documents import from_document
from captionkit.table.check import check
from captionkit.table.lease import Lease
from captionkit.table.table import CaptionTable
from tests.storage.disk import small_disk
from tests.support.archive import Folder
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import S3Server

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


def caption(proxy: FaultProxy, *args: str | Path) -> int:
    return main(["caption", "--endpoint-url", proxy.endpoint, "--beam", "1", *map(str, args)])


def record(output: Path) -> dict[str, Any]:
    (file,) = (output / "_runs").glob("*.parquet")
    found: dict[str, Any] = from_document(file.read_bytes())
    return found


def test_a_job_outlives_faults_and_a_server_that_goes_away_and_tells_what_it_met(
    s3: S3Server, bucket: str, proxy: FaultProxy, pictures: list[bytes], capsys: Any
) -> None:
    for number in range(24):
        s3.client().put_object(Bucket=bucket, Key=f"in/{number:02}.jpg", Body=pictures[number % 12])

    def outage() -> None:
        while sum(".jpg" in request for request in list(proxy.requests)) < 16:
            time.sleep(0.01)
        proxy.down()
        time.sleep(2.0)
        proxy.up()

    thread = threading.Thread(target=outage)
    # The first is asked by the driver, the others by fetch workers.
    proxy.fault("status", "GET .*list-type.*prefix=in", status=500, code="InternalError", times=1)
    proxy.fault("status", r"GET .*/\d+\.jpg", status=503, code="SlowDown", times=7)
    proxy.fault("truncate", r"GET .*/\d+\.jpg", after=100, times=2)
    proxy.fault("latency", r"GET .*jpg", seconds=0.2)
    thread.start()
    output = f"s3://{bucket}/out"
    assert caption(proxy, "--input", f"s3://{bucket}/in", "--output", output, "--fetch-threads", "2") == OK
    thread.join()
    report = check(output, Storage(StorageOptions(endpoint_url=s3.endpoint)))
    assert report.ok, report.text()
    assert (report.rows, report.captioned) == (24, 24)
    (found,) = Storage().glob(f"{output}/_runs/*.parquet")
    retries = from_document(Storage().read(found.uri))["retries"]
    assert set(retries) <= {"slow_down", "server_error", "broken", "unreachable"} <= set(FAULTS)
    assert (retries["slow_down"], retries["server_error"]) == (7, 1)
    assert retries["broken"] + retries.get("unreachable", 0) > 2
    capsys.readouterr()
    assert main(["status", output]) == OK
    said = capsys.readouterr().out
    assert f"storage was asked again {sum(retries.values())} times: " in said
    assert all(f"{times} × {kind}" in said for kind, times in retries.items())


@pytest.mark.parametrize(
    ("request_", "status", "code", "said"),
    [
        ("PUT ", 403, "AccessDenied", "cannot write: s3://"),
        ("PUT ", 400, "ExpiredToken", "the session token has expired"),
        ("PUT ", 507, "XMinioStorageFull", "cannot write: s3://"),
        ("PUT ", 404, "NoSuchBucket", "there is no such bucket"),
        ("GET .*list-type", 400, "ExpiredToken", "the session token has expired"),
        ("GET .*list-type", 404, "NoSuchBucket", "there is no such bucket"),
        ("GET .*list-type", 403, "AccessDenied", "access denied"),
    ],
)
def test_what_is_hopeless_is_one_error_before_any_work(
    s3: S3Server,
    bucket: str,
    proxy: FaultProxy,
    capfd: pytest.CaptureFixture[str],
    request_: str,
    status: int,
    code: str,
    said: str,
) -> None:
    s3.client().put_object(Bucket=bucket, Key="in/a.jpg", Body=b"x")
    proxy.fault("status", request_, status=status, code=code)
    assert caption(proxy, "--input", f"s3://{bucket}/in", "--output", f"s3://{bucket}/out") in (BROKEN, USAGE)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("captionkit: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert f"s3://{bucket}" in errors[0]
    assert not [request for request in proxy.requests if "GET" in request and "a.jpg" in request]  # none was read
    assert [entry.uri for entry in Storage().list(f"s3://{bucket}/")] == [f"s3://{bucket}/in/a.jpg"]


def test_credentials_that_expire_on_the_way_are_one_error_and_no_failed_rows(
    s3: S3Server,
    bucket: str,
    proxy: FaultProxy,
    pictures: list[bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for number in range(12):
        s3.client().put_object(Bucket=bucket, Key=f"{number:02}.jpg", Body=pictures[number])
    proxy.fault("status", r"GET .*/0[6-9]\.jpg", status=400, code="ExpiredToken")
    output = tmp_path / "out"
    assert caption(proxy, "--input", f"s3://{bucket}/", "--output", output) == BROKEN
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("captionkit: ")]
    assert "the session token has expired" in error
    assert record(output)["status"] == "broken"
    assert record(output)["error"] == f"StorageError: {error.removeprefix('captionkit: ')}"
    assert not [file for file in output.glob("*.parquet") if "failed" in pq.read_table(file)["status"].to_pylist()]
    proxy.clear()
    assert caption(proxy, "--input", f"s3://{bucket}/", "--output", output) == OK
    rows = pq.read_table(output)
    assert len(rows) == 12
    assert "retries" not in rows.column_names


def test_a_full_disk_is_one_error_before_any_work(
    folder: Folder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.add("a.jpg", 1)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "full").write_bytes(bytes(64 * 1024))
        assert main(["caption", "--input", str(folder.path), "--output", str(disk / "out")]) == BROKEN
        assert [file for file in disk.rglob("*") if file.is_file()] == [disk / "full"]
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("captionkit: ")]
    assert "cannot write: " in error
    assert "the disk is full; make room, or choose another place" in error


def test_a_key_deleted_after_the_listing_is_one_failed_row(
    s3: S3Server, bucket: str, pictures: list[bytes], tmp_path: Path
) -> None:
    for number in range(3):
        s3.client().put_object(Bucket=bucket, Key=f"{number}.jpg", Body=pictures[number])
    storage = Storage()
    inputs = Inputs(InputOptions(input=(f"s3://{bucket}/",)), storage)
    manifest = make_manifest(inputs, CaptionTable(str(tmp_path / "t"), storage), str(tmp_path / "m"))
    s3.client().delete_object(Bucket=bucket, Key="1.jpg")
    fetching = FetchOptions(StorageOptions(), Preprocessing(size=32, resize=32), Limits(), 4, None, (), None)
    rows = [row for unit in manifest.units for table in fetch_unit(unit, fetching) for row in table.to_pylist()]
    assert {row["uri"][-5:]: row["error_kind"] for row in rows} == {"0.jpg": None, "1.jpg": "not_found", "2.jpg": None}


def test_a_second_job_on_the_table_is_refused_before_it_lists(
    folder: Folder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.add("a.jpg", 1)
    output = tmp_path / "out"
    with Lease(str(output), Storage(), "the-first"):
        assert main(["caption", "--input", str(folder.path), "--output", str(output)]) == USAGE
    assert "the-first" in capfd.readouterr().err
    assert not list(output.glob("*.parquet"))
    assert not list(output.glob("_runs/*"))


def test_a_command_looks_at_its_inputs_once_before_it_lists_them(
    s3: S3Server, bucket: str, proxy: FaultProxy, pictures: list[bytes], tmp_path: Path
) -> None:
    s3.client().put_object(Bucket=bucket, Key="in/a.jpg", Body=pictures[0])
    assert caption(proxy, "--input", f"s3://{bucket}/in", "--output", tmp_path / "out") == OK
    asked = [request for request in proxy.requests if "list-type" in request and "prefix=in" in request]
    assert len(asked) == 2, proxy.requests  # the look and the listing

"""S3 Inventory, written as S3 writes it, against a listing of the same bucket."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from captionkit.errors import UsageError
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.storage import Storage
from tests.support.archive import tar_bytes
from tests.support.servers import S3Server

STORAGE = Storage()
KEYS = ["in/a b+c.jpg", "in/ü#1.jpg", "in/deep/0a1b", "in/notes.txt", "in/.hidden/x.jpg", "in/s.tar", 'in/"q",x.jpg']
SCHEMA = {"bucket": pa.string(), "key": pa.string(), "size": pa.int64(), "e_tag": pa.string()}


def csv_file(rows: list[dict[str, Any]]) -> bytes:
    lines = [",".join(f'"{value}"' for value in {**row, "key": quote_plus(row["key"])}.values()) for row in rows]
    return gzip.compress("\n".join(lines).encode())


def parquet_file(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def orc_file(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    orc.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "CSV": csv_file,
    "Parquet": parquet_file,
    "ORC": orc_file,
}
NAMES = {"bucket": "Bucket", "key": "Key", "size": "Size", "e_tag": "ETag"} | {
    "version_id": "VersionId",
    "is_latest": "IsLatest",
    "is_delete_marker": "IsDeleteMarker",
}


def publish(bucket: str, form: str, *parts: list[dict[str, Any]], **changes: Any) -> str:
    """Write an inventory of these rows, a file each; the address of its manifest."""
    files = []
    for number, rows in enumerate(parts):
        key = f"inv/data/{number}.{form.lower()}"
        STORAGE.write(f"s3://{bucket}/{key}", WRITERS[form](rows))
        files.append({"key": key, "size": 1, "MD5checksum": "0" * 32})
    schema = ", ".join(NAMES[name] for name in parts[0][0])
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": form,
        "fileSchema": schema,
        "files": files,
        **changes,
    }
    address = f"s3://{bucket}/inv/2026-11-30T01-00Z/manifest.json"
    STORAGE.write(address, json.dumps(manifest).encode())
    return address


def items(*addresses: str, **options: Any) -> list[InputItem]:
    return sorted(Inputs(InputOptions(addresses, **options), STORAGE).items())


def fill(bucket: str) -> list[dict[str, Any]]:
    """Objects, and what an inventory says of them."""
    for key in KEYS:
        data = tar_bytes([("1.jpg", b"x")]) if key.endswith(".tar") else key.encode()
        STORAGE.write(f"s3://{bucket}/{key}", data)
    found = {entry.uri: entry for entry in STORAGE.list(f"s3://{bucket}/in/")}
    rows = [
        {"bucket": bucket, "key": key, "size": entry.size, "e_tag": entry.version}
        for key in KEYS
        if (entry := found.get(f"s3://{bucket}/{key}")) or (entry := STORAGE.stat(f"s3://{bucket}/{key}"))
    ]
    return [*rows, {"bucket": bucket, "key": "in/folder/", "size": 0, "e_tag": "d41d8cd98f00b204e9800998ecf8427e"}]


@pytest.mark.parametrize("form", WRITERS)
def test_an_inventory_is_the_listing_of_its_bucket_without_asking(form: str, bucket: str, s3: S3Server) -> None:
    rows = fill(bucket)
    listed = items(f"s3://{bucket}/in/")
    assert len(listed) == 5
    manifest = publish(bucket, form, rows[:3], rows[3:])
    for key in KEYS:  # nobody looks at the objects themselves
        STORAGE.delete(f"s3://{bucket}/{key}")
    assert items(manifest) == listed
    everything = {item.uri.rpartition("/")[2] for item in items(manifest, format="images")}
    assert everything == {"a b+c.jpg", "ü#1.jpg", "0a1b", "notes.txt", "s.tar", '"q",x.jpg'}
    inputs = Inputs(InputOptions((manifest,)), STORAGE)
    list(inputs.items())
    assert inputs.ignored == {".txt": 1}


@pytest.mark.parametrize("form", WRITERS)
def test_of_all_versions_the_present_ones_count(form: str, bucket: str) -> None:
    base = {"bucket": bucket, "size": 3}
    latest, old, gone = (
        {"is_latest": latest, "is_delete_marker": marker}
        for latest, marker in ((True, False), (False, False), (True, True))
    )
    rows = [
        {**base, "key": "a.jpg", "e_tag": "new", **latest},
        {**base, "key": "a.jpg", "e_tag": "old", **old},
        {**base, "key": "b.jpg", "e_tag": "b", **gone},
    ]
    if form == "CSV":
        rows = [{**row, **{name: str(row[name]).lower() for name in latest}} for row in rows]
    found = items(publish(bucket, form, rows))
    assert [(item.uri, item.version, item.size) for item in found] == [(f"s3://{bucket}/a.jpg", "new", 3)]


def test_what_is_wrong_with_an_inventory_is_said(bucket: str) -> None:
    row = {"bucket": bucket, "key": "a.jpg", "size": 3, "e_tag": "x"}
    with pytest.raises(UsageError, match=r"has no column e_tag.*optional fields Size and ETag"):
        items(publish(bucket, "Parquet", [{name: row[name] for name in ("bucket", "key", "size")}]))
    with pytest.raises(UsageError, match="not understood: its files are Avro"):
        items(publish(bucket, "CSV", [row], fileFormat="Avro"))
    with pytest.raises(UsageError, match="its `files` have no keys"):
        items(publish(bucket, "CSV", [row], files=["x"]))
    publish(bucket, "ORC", [row])
    confused = publish(bucket, "Parquet", [row], files=[{"key": "inv/data/0.orc"}])
    with pytest.raises(UsageError, match=r"data/0\.orc of the inventory .* cannot be read as Parquet"):
        items(confused)
    with pytest.raises(UsageError, match="no images found there"):
        items(publish(bucket, "Parquet", [{**row, "key": "a.txt"}]))


def test_another_manifest_of_that_name_is_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('[{"uri": "/a.jpg"}]')
    assert [item.uri for item in items(str(tmp_path / "manifest.json"))] == ["/a.jpg"]

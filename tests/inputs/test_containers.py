"""Shards and Parquet files that somebody else has made: whatever is in them, one row for each image."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.images import Limits, Preprocessing
from captionkit.inputs.containers import TEXT_BYTES, BrokenContainer, EncodedImage, read_tar
from captionkit.inputs.kinds import odd_texts
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.fetch import FetchOptions, fetch_unit
from captionkit.pipeline.manifest import make_manifest
from captionkit.pipeline.run_record import RunRecord
from captionkit.storage import Storage, StorageOptions
from captionkit.storage.archives import NAME_BYTES
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, tar_bytes

STORAGE = Storage()


def options(**more: Any) -> FetchOptions:
    given: dict[str, Any] = {"storage": StorageOptions(), "limits": Limits(max_bytes=2**20), "carry": ()}
    return FetchOptions(
        preprocessing=Preprocessing(size=16, resize=16), threads=4, image_column=None, done=None,
        **{**given, **more},
    )  # fmt: skip


def tables(tmp_path: Path, *addresses: str, stat_listed: bool = True, **more: Any) -> list[pa.Table]:
    inputs = Inputs(InputOptions(input=addresses, stat_listed=stat_listed), STORAGE)
    manifest = make_manifest(inputs, CaptionTable(str(tmp_path / "t"), STORAGE), str(tmp_path / "manifest"))
    return [table for unit in manifest.units for table in fetch_unit(unit, options(**more))]


def rows(tmp_path: Path, *addresses: str, **more: Any) -> list[dict[str, Any]]:
    return [row for table in tables(tmp_path, *addresses, **more) for row in table.to_pylist()]


def tar_of(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def of_type(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_members_that_lead_elsewhere_are_read_where_they_are_or_not_at_all(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    (tmp_path / "secret.jpg").write_bytes(pictures[3])
    shard = folder.add(
        "s.tar",
        tar_of(
            (tarfile.TarInfo("../../etc/up.jpg"), pictures[0]),
            (tarfile.TarInfo("/etc/absolute.jpg"), pictures[1]),
            of_type("link.jpg", tarfile.SYMTYPE, str(tmp_path / "secret.jpg")),
            of_type("hard.jpg", tarfile.LNKTYPE, "../../etc/up.jpg"),
            of_type("folder.jpg", tarfile.DIRTYPE),
            of_type("device.jpg", tarfile.CHRTYPE),
            of_type("pipe.jpg", tarfile.FIFOTYPE),
            (tarfile.TarInfo("fine.jpg"), pictures[2]),
        ),
    )
    before = sorted(tmp_path.rglob("*"))
    found = {row["uri"]: row["error_kind"] for row in rows(tmp_path, shard)}
    assert found == dict.fromkeys([f"{shard}#../../etc/up.jpg", f"{shard}#/etc/absolute.jpg", f"{shard}#fine.jpg"])
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.suffix != ".arrow"] == []


def test_members_that_come_again_are_one_row_and_counted(folder: Folder, tmp_path: Path, pictures: list[bytes]) -> None:
    shard = folder.add("s.tar", tar_bytes([("a.jpg", pictures[0]), ("b.jpg", b"x"), *[("a.jpg", pictures[1])] * 3]))
    (table,) = tables(tmp_path, shard)
    assert table["uri"].to_pylist() == [f"{shard}#a.jpg", f"{shard}#b.jpg"]
    assert table["container_rows"].to_pylist() == [None, 2]
    record = RunRecord("r", {}, {})
    record.counts["duplicates"] = 5
    made = {"status": ["captioned", "failed"], "batch": pa.nulls(2, pa.int32()), "caption_s": pa.nulls(2, pa.float32())}
    for name, values in made.items():
        table = table.append_column(name, pa.array(values) if isinstance(values, list) else values)
    record.add(table)
    assert record.counts["duplicates"] == 5 + 3


def test_names_that_are_no_text_cost_nobody_anything(folder: Folder, tmp_path: Path, pictures: list[bytes]) -> None:
    shard = folder.add("s.tar", tar_bytes([("caf\udce9.jpg", pictures[0]), ("b.jpg", pictures[1])]))
    listing = folder.add("l.jsonl", b'{"uri": "/gone\\ud800.jpg"}\n{"uri": "b\\u0000.jpg"}\n')
    found = {row["uri"]: row["error_kind"] for row in rows(tmp_path, shard, listing)}
    assert found == {
        f"{shard}#caf\\udce9.jpg": None,
        f"{shard}#b.jpg": None,
        "/gone\\ud800.jpg": "not_found",
        f"{folder.path}/b\0.jpg": "not_found",
    }


def claim(name: bytes, kind: bytes, size: int) -> bytes:
    """A tar header that claims a size."""
    info = tarfile.TarInfo(name.decode())
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(tarfile.REGTYPE, 2**40), (tarfile.REGTYPE, -5), (tarfile.GNUTYPE_LONGNAME, 2**33), (tarfile.XHDTYPE, 2**33)],
)
def test_a_huge_size_is_a_claim_and_no_memory(
    folder: Folder, tmp_path: Path, pictures: list[bytes], kind: bytes, size: int
) -> None:
    whole = tar_bytes([("a.jpg", pictures[0])])[: 512 + -(-len(pictures[0]) // 512) * 512]
    shard = folder.add("s.tar", whole + claim(b"b.jpg", kind, size) + b"x" * 4096)
    good, broken = rows(tmp_path, shard)
    assert (good["uri"], good["error_kind"]) == (f"{shard}#a.jpg", None)
    assert (broken["uri"], broken["error_kind"], broken["container_rows"]) == (shard, "truncated", 2)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
def test_a_small_file_does_not_unpack_into_much_memory(folder: Folder, tmp_path: Path, kind: bytes) -> None:
    size = 60 * 2**20
    shard = folder.add("s.tar.gz", gzip.compress(claim(b"a.jpg", kind, size) + bytes(size) + bytes(1024), 1))
    row = {"uri": shard, "version": "", "read_uri": None}
    tracemalloc.start()
    found = list(read_tar(row, STORAGE, options().containers, np.empty(0, np.int64)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 1
    assert isinstance(found[0], EncodedImage if kind == tarfile.REGTYPE else BrokenContainer)
    assert peak < 12 * NAME_BYTES


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_headers_break_a_shard_and_nothing_else(folder: Folder, pictures: list[bytes], form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{'long' * 40}-é-{number}.jpg")
            info.size = 100
            tar.addfile(info, io.BytesIO(b"x" * 100))
    dice, broken = random.Random(form), 0
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for _ in range(dice.choice((1, 3, 30))):
            data[dice.randrange(len(data))] = dice.choice((0, 45, 48, 55, 128, 255, dice.randrange(256)))
        row = {"uri": folder.add("s.tar", bytes(data)), "version": "", "read_uri": None}
        found = list(read_tar(row, STORAGE, options().containers, np.empty(0, np.int64)))
        assert len({each.uri for each in found}) == len(found)
        assert not [each for each in found[:-1] if isinstance(each, BrokenContainer)]
        broken += any(isinstance(each, BrokenContainer) for each in found)
    assert broken > 20


def parquet(path: Path, count: int, pictures: list[bytes], group: int = 10) -> bytes:
    images = [pictures[n % 12] for n in range(count)]
    pq.write_table(pa.table({"image": pa.array(images)}), path, row_group_size=group, compression="none")
    return path.read_bytes()


def test_a_parquet_file_that_breaks_costs_the_rows_that_are_lost(
    tmp_path: Path, folder: Folder, pictures: list[bytes]
) -> None:
    file = folder.path / "p.parquet"
    data = bytearray(parquet(file, 30, pictures))
    start = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40  # the second group's page header
    file.write_bytes(data)
    found = rows(tmp_path, str(folder.path))
    assert [row["uri"] for row in found] == [f"{file}#{n}" for n in range(30)]
    assert Counter(row["error_kind"] for row in found[10:20]) == {"truncated": 10}
    assert {row["error_kind"] for row in found[:10] + found[20:]} == {None}
    assert "the file broke at row 10" in found[15]["error"]
    assert {row["container_rows"] for row in found} == {30}


def test_a_parquet_file_that_cannot_be_opened_is_one_row(tmp_path: Path, folder: Folder, pictures: list[bytes]) -> None:
    whole = parquet(folder.path / "good.parquet", 3, pictures)
    torn = folder.add("torn.parquet", whole[:-20])
    text = folder.add("text.parquet", b"no parquet")
    found = {row["uri"]: row for row in rows(tmp_path, str(folder.path))}
    assert len(found) == 5
    for uri in (torn, text):
        assert (found[uri]["error_kind"], found[uri]["container_rows"]) == ("truncated", 1)
        assert "not a readable Parquet file" in found[uri]["error"]
    assert {row["error_kind"] for uri, row in found.items() if "good" in uri} == {None}


def test_a_shard_whose_members_could_have_no_address_is_one_row(
    tmp_path: Path, folder: Folder, pictures: list[bytes]
) -> None:
    odd = folder.add("a.tar#b.tar", tar_bytes([("1.jpg", pictures[0])]))
    folder.add("good.jpg", pictures[1])
    found = {row["uri"]: row["error_kind"] for row in rows(tmp_path, str(folder.path))}
    assert found == {odd: "not_found", f"{folder.path}/good.jpg": None}


@pytest.mark.usefixtures("s3")
def test_addresses_that_can_be_none_are_failed_rows(tmp_path: Path, folder: Folder, pictures: list[bytes]) -> None:
    good = folder.add("a.jpg", pictures[0])
    bad = [
        "gopher://host/a.jpg", "s3://", "s3://bucket", "s3://AKIAKEY:secret@bucket/a.jpg", "simplecache::s3://b/a.jpg",
        "zip://a.jpg", "gopher://host/s.tar", f"{folder.path}/s.tar#t.tar", "memory://gone.jpg", "http://", "://",
        "a\0b",
    ]  # fmt: skip
    listing = folder.add("l.txt", "\n".join([*bad, good]).encode())
    for stat in (True, False):
        found = {row["uri"]: row["error_kind"] for row in rows(tmp_path, listing, stat_listed=stat)}
        assert len(found) == len(bad) + 1
        assert found.pop(good) is None
        assert set(found.values()) == {"not_found"}
        assert "s3://bucket/a.jpg" in found


def test_addresses_of_other_kinds_beside_those_allowed_are_failed_rows(
    tmp_path: Path, folder: Folder, pictures: list[bytes], s3: Any, bucket: str
) -> None:
    s3.client().put_object(Bucket=bucket, Key="a.jpg", Body=pictures[0])
    listing = folder.add(
        "l.txt", f"s3://{bucket}/a.jpg\nfile:///etc/passwd\n/etc/passwd\nhttp://127.0.0.1/x\n".encode()
    )
    found = rows(tmp_path, listing, storage=StorageOptions(schemes=("s3",)))
    assert {row["uri"]: row["error_kind"] for row in found} == {
        f"s3://{bucket}/a.jpg": None,
        "/etc/passwd": "forbidden",
        "http://127.0.0.1/x": "forbidden",
    }


def test_members_are_images_by_name_or_content_and_others_are_counted(folder: Folder, pictures: list[bytes]) -> None:
    names = ["0a1b2c", "d/1.jpg.1", "n.JPEG", "x.img"]
    others = [
        ("a.json", b"{}"),
        ("b.json", b"[1]"),
        ("c.cls", b"3"),
        ("d.txt", b""),
        ("e.pdf", b"%PDF-1.4"),
        ("._hidden.jpg", b"?"),
    ]
    shard = folder.add("s.tar", tar_bytes([*zip(names, pictures, strict=False), *others]))
    row = {"uri": shard, "version": "", "read_uri": None}
    found = list(read_tar(row, STORAGE, options().containers, np.empty(0, np.int64)))
    assert [source.uri for source in found] == [f"{shard}#{name}" for name in names]
    assert found[-1].container_rows == 4
    assert found[-1].passed_over == {".json": 2, ".cls": 1, ".txt": 1, ".pdf": 1}


def test_texts_of_shards_that_are_not_as_they_should_be_are_read_and_counted(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    texts = [
        b"\xef\xbb\xbfun caf\xc3\xa9",  # with a byte order mark
        "un café".encode("utf-16"),
        b"un caf\xe9",
        b"x" * (TEXT_BYTES + 1),
        b"plain",
    ]
    samples = [b"\xef\xbb\xbf" + b'{"who": "a"}', b"[1]", b'{"who": "\xe9"}', b"{", b'{"who": null}']
    members = [
        member
        for number, text in enumerate(texts)
        for member in (
            (f"{number}.jpg", pictures[number]),
            (f"{number}.txt", text),
            (f"{number}.json", samples[number]),
        )
    ]
    shard = folder.add("s.tar", tar_bytes(members))
    row = {"uri": shard, "version": "", "read_uri": None}
    carry = (("txt", pa.string()), ("json.who", pa.string()))
    found = list(read_tar(row, STORAGE, options(carry=carry).containers, np.empty(0, np.int64)))
    assert [source.carried.get("txt") for source in found] == ["un café", "un café", "un caf�", None, "plain"]
    assert [source.carried.get("json.who") for source in found] == ["a", None, "�", None, None]
    assert found[-1].odd_texts == {"not_utf8": 2, "not_json": 2, "too_long": 1}

    for table in tables(tmp_path, shard, carry=carry):
        assert json.loads(table["odd_texts"].drop_null()[0].as_py()) == found[-1].odd_texts
    said = odd_texts(found[-1].odd_texts)
    assert said.startswith("texts of shards: 2 not in UTF-8")
    assert said.endswith("1 longer than 1 MiB (not carried)")


def test_a_shard_without_an_image_is_a_failed_row(folder: Folder) -> None:
    shard = folder.add("s.tar", tar_bytes([("a.txt", b"text"), ("b.json", b"{}")]))
    row = {"uri": shard, "version": "", "read_uri": None}
    (broken,) = read_tar(row, STORAGE, options().containers, np.empty(0, np.int64))
    assert isinstance(broken, BrokenContainer)
    assert (broken.uri, broken.kind, broken.container_rows) == (shard, "not_an_image", 1)
    assert broken.error == "there is no image in this shard: 2 files: 1 × .txt, 1 × .json"


@pytest.mark.parametrize("kind", ["binary", "dictionary", "binary_view", "large_binary", "fixed"])
def test_image_bytes_of_every_arrow_type_are_read(folder: Folder, tmp_path: Path, kind: str) -> None:
    values = [b"ab", b"cd"]
    column = {
        "binary": lambda: pa.array(values),
        "dictionary": lambda: pa.array(values).dictionary_encode(),
        "binary_view": lambda: pa.array(values, pa.binary_view()),
        "large_binary": lambda: pa.array(values, pa.large_binary()),
        "fixed": lambda: pa.array(values, pa.binary(2)),
    }[kind]()
    pq.write_table(pa.table({"image": column}), folder.path / "x.parquet")
    rows = [row for table in tables(tmp_path, f"{folder.path}/x.parquet") for row in table.to_pylist()]
    assert [(row["bytes"], row["error_kind"]) for row in rows] == [(2, "not_an_image")] * 2

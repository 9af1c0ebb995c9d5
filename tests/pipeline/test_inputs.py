import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.pipeline.inputs import Inputs, Item, image_column
from captionkit.pipeline.options import InputOptions
from captionkit.storage import Storage, UsageError
from tests.pipeline.conftest import Folder, tar_bytes


def items(*addresses: str, **options: Any) -> list[Item]:
    return list(Inputs(InputOptions(input=addresses, **options), Storage()).items())


def uris(*addresses: str, **options: Any) -> list[str]:
    return sorted(item.uri for item in items(*addresses, **options))


def test_prefix_glob_image_and_several(folder: Folder) -> None:
    a, b, c = folder.add("a.jpg", b"1"), folder.add("deep/er/b.PNG", b"2"), folder.add("hash4711", b"3")
    folder.add("notes.txt", b"no images here")
    folder.add("index.json", b"{}")
    root = str(folder.path)
    assert uris(root) == uris(root + "/") == [a, b, c]
    assert uris(f"{root}/*.jpg") == [a]
    assert uris(f"{root}/**/*.PNG") == [b]
    assert uris(a) == [a]
    assert uris(a, f"{root}/deep") == [a, b]
    assert uris(f"file://{a}") == [a]


def test_what_a_prefix_passes_over_is_counted(folder: Folder) -> None:
    folder.add("a.jpg", b"1")
    folder.add("notes.txt", b"x")
    folder.add("more/notes.txt", b"x")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage())
    assert len(list(inputs.items())) == 1
    assert inputs.ignored == {".txt": 2}
    assert len(items(str(folder.path), format="images")) == 3


def test_versions_tell_a_changed_image(folder: Folder) -> None:
    a = folder.add("a.jpg", b"1")
    before = items(a)[0].version
    assert before
    assert items(a)[0].version == before
    folder.add("a.jpg", b"22")
    assert items(a)[0].version != before


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "parquet"])
def test_lists(folder: Folder, suffix: str) -> None:
    here, deeper = folder.add("a b#c.jpg", b"1"), folder.add("deep/b.jpg", b"22")
    rows = [
        {"uri": here, "label": "x"},
        {"uri": "deep/b.jpg", "label": 'y "quoted", too'},
        {"uri": "", "label": "z"},
    ]
    text = {
        "txt": "\ufeff" + "".join(f"{row['uri']}\r\n" for row in rows),
        "csv": "\ufefflabel,uri\r\n"
        + "".join('"{}","{}"\r\n'.format(row["label"].replace('"', '""'), row["uri"]) for row in rows),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    if suffix == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        listing = folder.add("list.parquet", buffer.getvalue())
    else:
        listing = folder.add(f"list.{suffix}", text[suffix].encode())
    carry = () if suffix == "txt" else ("label",)
    inputs = Inputs(InputOptions(input=(listing,), carry=carry), Storage())
    found = list(inputs.items())
    assert [item.uri for item in found] == [here, deeper]
    assert inputs.blank == 1
    assert all(item.version for item in found)
    if carry:
        assert [item.carried["label"] for item in found] == ["x", 'y "quoted", too']
        assert inputs.carry_types == {"label": pa.string()}
    assert {item.version for item in items(listing, stat_listed=False)} == {""}


def test_a_listed_image_that_is_not_there_is_still_an_input(folder: Folder) -> None:
    listing = folder.add("list.txt", f"{folder.path}/gone.jpg\n".encode())
    assert items(listing) == [Item(f"{folder.path}/gone.jpg", "", None)]


def test_other_column_names(folder: Folder) -> None:
    listing = folder.add("list.csv", b"where,n\n/a.jpg,1\n")
    assert uris(listing, uri_column="where") == ["/a.jpg"]
    with pytest.raises(UsageError, match=r"no column `uri`; it has: where, n.*--uri-column"):
        items(listing)
    with pytest.raises(UsageError, match="no column `m`"):
        items(listing, uri_column="where", carry=("m",))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_address_itself_is_carried_without_its_secrets(folder: Folder, suffix: str) -> None:
    uri = "https://ann:hunter2@h.example/a.jpg?w=1&sig=Zq9"
    pq.write_table(pa.table({"url": [uri]}), folder.path / "l.parquet")
    folder.add("l.csv", f"url\n{uri}\n".encode())
    folder.add("l.jsonl", json.dumps({"url": uri}).encode())
    (item,) = items(f"{folder.path}/l.{suffix}", uri_column="url", carry=("url",), stat_listed=False)
    assert (item.uri, item.name) == (uri, "https://h.example/a.jpg?w=1")
    assert item.carried == {"url": item.name}


@pytest.mark.parametrize(
    ("name", "body"),
    [("l.csv", b"x" * 200_000), ("l.jsonl", b'{"uri": ' + b"[" * 100_000), ("l.parquet", None)],
)
def test_lists_that_make_no_sense_are_named(folder: Folder, name: str, body: bytes | None) -> None:
    if body is None:
        pq.write_table(pa.table({"uri": [1, 2]}), folder.path / name)
    else:
        folder.add(name, body)
    with pytest.raises(UsageError, match=name):
        items(f"{folder.path}/{name}")


def test_json_values_are_carried_as_text(folder: Folder) -> None:
    listing = folder.add(
        "list.jsonl",
        b'{"uri": "/a.jpg", "n": 1, "tags": ["a"]}\n\n{"uri": "/b.jpg", "n": null, "tags": []}\n',
    )
    assert [item.carried for item in items(listing, carry=("n", "tags"))] == [
        {"n": "1", "tags": '["a"]'},
        {"n": None, "tags": "[]"},
    ]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("l.jsonl", b'{"uri": "/a.jpg"}\n{"uri": \n', "line 2: not JSON"),
        ("l.jsonl", b"[7]\n", "line 1: expected an object"),
        ("l.json", b'["/a.jpg", {"uri": "/b.jpg"}]', "item 2: expected an object"),
        ("l.json", b'["/a.jpg", "/b', "not whole JSON"),
        ("l.json", b'{\n  "images": ["/a.jpg"]\n}', "one JSON object"),
        ("l.csv", b"/a.jpg,1\n/b.jpg,2\n", "its columns' names in its first line"),
        ("l.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        ("l.arrow", b"ARROW1\0\0", "write it as Parquet"),
        ("l.jsonl", b'{"uri": 7}\n', "line 1: expected an object with a string `uri`"),
        ("l.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("l.txt", b"\n\n", "no images found"),
    ],
)
def test_bad_lists_say_where(folder: Folder, name: str, body: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        items(folder.add(name, body))


def test_missing_inputs(folder: Folder) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        items(f"{folder.path}/nothing")
    folder.add("a.json", b"{}")
    with pytest.raises(UsageError, match=r"no images found there \(1 × .json\).*--format images"):
        items(str(folder.path))
    with pytest.raises(UsageError, match="names nothing"):
        items()


def test_shards_are_told_by_name_or_by_force(folder: Folder) -> None:
    shard = folder.add("a-000.tar", tar_bytes([("1.jpg", b"x")]))
    folder.add("b.bin", b"passed over")
    assert [item.kind for item in items(str(folder.path))] == ["tar"]
    assert [item.kind for item in items(shard, format="images")] == ["image"]
    with pytest.raises(UsageError, match=r"not a .*\.tar"):
        items(folder.add("odd.bin", b"x"), format="webdataset")
    listing = folder.add("shards.txt", b"a-000.tar\n")
    assert [(item.uri, item.kind) for item in items(listing)] == [(shard, "tar")]


def test_parquet_with_images(folder: Folder, tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": "a.jpg"}] * 5, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": image, "label": list(range(5))}), file, row_group_size=2)
    item = items(str(file), carry=("label",))[0]
    assert (item.kind, item.row_groups) == ("parquet", (2, 2, 1))


def test_image_column() -> None:
    hugging = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert image_column(pa.schema([("image", hugging), ("thumb", pa.binary())]), None) == "image"
    assert image_column(pa.schema([("jpg", pa.large_binary()), ("n", pa.int64())]), None) == "jpg"
    assert image_column(pa.schema([("uri", pa.string())]), None) is None
    assert image_column(pa.schema([("a", pa.binary()), ("b", pa.binary())]), "b") == "b"
    with pytest.raises(UsageError, match="several columns"):
        image_column(pa.schema([("a", pa.binary()), ("b", pa.binary())]), None)
    with pytest.raises(UsageError, match="no such column of bytes"):
        image_column(pa.schema([("a", pa.binary())]), "c")


def test_parquet_that_is_neither(folder: Folder) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}), buffer)
    with pytest.raises(UsageError, match=r"neither a column `uri`.*its columns: n"):
        items(folder.add("n.parquet", buffer.getvalue()))


def test_carried_columns_must_agree(folder: Folder) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": ["/a.jpg"], "n": [1]}), buffer)
    parquet = folder.add("a.parquet", buffer.getvalue())
    listing = folder.add("b.csv", b"uri,n\n/b.jpg,1\n")
    with pytest.raises(UsageError, match=r"the column is string in .*b\.csv and int64"):
        items(parquet, listing, carry=("n",))
    with pytest.raises(UsageError, match="--carry m: no input has a column"):
        items(parquet, carry=("m",))

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.errors import UsageError
from captionkit.inputs.images import Images
from captionkit.inputs.kinds import InputItem, passed_over
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.inputs.tables import TABLE_SUFFIXES, list_suffix
from captionkit.storage import Storage, split_member
from captionkit.storage.members import image_column
from tests.support.archive import Folder, tar_bytes


def items(*addresses: str, **options: Any) -> list[InputItem]:
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


def test_images_of_a_folder_or_a_parquet_list_are_columns_and_what_is_odd_is_told_one_by_one(folder: Folder) -> None:
    names = ["a.jpg", "deep/b.PNG", "me@home.jpg", "x.tar", "notes.txt", "..jpg", ".jpg"]
    for name in names:
        folder.add(name, b"1")
    root = str(folder.path)
    inputs = Inputs(InputOptions(input=(root,)), Storage())
    images, *others = list(inputs.pieces())
    assert isinstance(images, Images)
    assert sorted(images.uris.to_pylist()) == [f"{root}/a.jpg", f"{root}/deep/b.PNG"]
    assert sorted(item.uri for item in others if isinstance(item, InputItem)) == [
        f"{root}/me@home.jpg",
        f"{root}/x.tar",
    ]
    assert inputs.ignored == {".txt": 1}
    assert all(Storage().stat(item.uri).version == item.version for item in images.items())

    plain = ["s3://b/a.jpg", "s3a://b/c d.JPEG", "gs://b/x/1.2.tif"]
    odd = [
        "https://h/a.jpg",
        "s3://k:s@b/a.jpg",
        "s3://b/a.tar#1.jpg",
        "s3://b/..jpg",
        "file:///a.jpg",
        "s3://b/a",
        "r.jpg",
    ]
    pq.write_table(pa.table({"uri": [*odd, None, "", *plain]}), folder.path / "list.parquet")
    inputs = Inputs(InputOptions((f"{root}/list.parquet",), stat_listed=False), Storage())
    images, *others = list(inputs.pieces())
    assert isinstance(images, Images)
    assert images.uris.to_pylist() == plain
    spelled = [uri.replace("file://", "") if uri != "r.jpg" else f"{root}/r.jpg" for uri in odd]
    assert [item.uri for item in others if isinstance(item, InputItem)] == spelled
    assert inputs.blank == 2


def test_what_a_run_wrote_below_its_input_is_no_input_whatever_its_name(folder: Folder) -> None:
    a = folder.add("a.jpg", b"1")
    folder.add("out/_runs/b.jpg", b"1")
    other = folder.add("out/c.jpg", b"1")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage(), output=f"{folder.path}/out")
    assert sorted(item.uri for item in inputs.items()) == [a, other]


def test_what_a_prefix_passes_over_is_counted(folder: Folder) -> None:
    folder.add("a.jpg", b"1")
    folder.add("notes.txt", b"x")
    folder.add("more/notes.txt", b"x")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage())
    assert len(list(inputs.items())) == 1
    assert inputs.ignored == {".txt": 2}
    assert len(items(str(folder.path), format="images")) == 3


@pytest.mark.parametrize("order", [1, -1])
def test_what_another_input_names_is_not_passed_over(folder: Folder, order: int) -> None:
    folder.add("a.jpg", b"1")
    folder.add("notes.txt", b"x")
    documents = [folder.add(name, b"%PDF-1.4") for name in ("b.pdf", "c d.pdf", "e/f.pdf")]
    listing = folder.add("e/list.csv", b"uri\n../a.jpg\n")
    root = str(folder.path)
    for others in ([*documents, listing], [f"{root}/*.pdf", f"file://{documents[2]}", f"{root}/**/*.csv"]):
        inputs = Inputs(InputOptions(input=tuple([root, *others][::order])), Storage())
        assert {item.uri for item in inputs.items()} == {*documents, f"{root}/a.jpg"}
        assert inputs.ignored == {".txt": 1}
    with pytest.raises(UsageError, match=r"no images found there \(passed over 2 files: 1 × \."):
        items(f"{root}/e", *documents)


def test_archives_hold_more_than_jpegs(folder: Folder) -> None:
    """Every format that is read, or would be with an extra. Documents are pictures only where they are named."""
    names = ("a.heic", "b.JXL", "c.cr2", "d.NEF", "e.dng", "f.raf", "g.psb", "h.svg", "i.dcm")
    pictures = [folder.add(name, b"1") for name in names]
    document = folder.add("j.pdf", b"%PDF-1.4\nplain text")
    root = str(folder.path)
    assert uris(root) == pictures
    assert uris(document) == uris(f"{root}/*.pdf") == uris(folder.add("list.txt", b"j.pdf\n")) == [document]


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
    assert items(listing) == [InputItem(f"{folder.path}/gone.jpg", "", None)]


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
    with pytest.raises(UsageError, match=r"no images found there \(passed over 1 file: 1 × .json\).*--format images"):
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


@pytest.mark.parametrize(
    "name", ["list.tsv", "list.ndjson", "list.lst", "LIST.CSV", "list", "list.json", "list.csv.gz"]
)
def test_lists_are_told_by_content_whatever_they_are_called(folder: Folder, name: str) -> None:
    a = folder.add("a.jpg", b"1")
    for text in ("a.jpg\n", "uri\na.jpg\n", "n;url\n1;a.jpg\n", '{"path": "a.jpg"}\n', '[{"file_name": "a.jpg"}]'):
        if text == "a.jpg\n" and list_suffix(name) in (*TABLE_SUFFIXES, ".ndjson"):
            continue  # by their names these have columns
        for data in (text.encode(), text.encode("utf-16"), gzip.compress(text.encode())):
            assert uris(folder.add(name, data)) == [a], (name, text)


def test_named_pictures_of_any_name_stay_pictures(folder: Folder) -> None:
    for name in ("picture", "picture.dat", "list.jpg"):
        address = folder.add(name, 1 if name != "list.jpg" else b"a.jpg\n")
        assert items(address) == [InputItem(address, items(address)[0].version, items(address)[0].size)]


def test_rows_behind_an_open_quote_are_kept_and_the_log_says_so(folder: Folder) -> None:
    listing = folder.add("l.csv", b'uri,title\n/a.jpg,"never closed\n/b.jpg,b\n/c.jpg,c\n')
    inputs = Inputs(InputOptions(input=(listing,), carry=("title",)), Storage())
    assert [(item.uri, item.carried["title"]) for item in inputs.items()] == [
        ("/a.jpg", "never closed"),
        ("/b.jpg", "b"),
        ("/c.jpg", "c"),
    ]
    assert inputs.notes == [
        f"1 row has a quote that is never closed in {listing} (line 2); each was read as a line for itself"
    ]


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.txt"])
def test_lines_of_lists_that_are_not_in_utf_8_are_counted_in_the_log(folder: Folder, name: str) -> None:
    lines = {"l.csv": b"uri,t\n/a.jpg,caf\xe9\n/b.jpg,\xe9\n", "l.jsonl": b'{"uri": "/a.jpg"}\n{"uri": "/\xe9.jpg"}\n'}
    listing = folder.add(name, b"\xef\xbb\xbf" + lines.get(name, b"/a.jpg\n/\xe9.jpg\n"))
    inputs = Inputs(InputOptions(input=(listing,)), Storage())
    assert len(list(inputs.items())) == 2
    count = "2 lines are" if name == "l.csv" else "1 line is"
    assert inputs.notes == [f"{count} not in UTF-8 in {listing} (line 2); what could not be read is �"]


def test_the_log_says_which_of_several_columns_was_taken(folder: Folder) -> None:
    inputs = Inputs(InputOptions(input=(folder.add("l.csv", b"image,url\nx,/a.jpg\n"),)), Storage())
    assert [item.uri for item in inputs.items()] == ["/a.jpg"]
    assert "column `url` (not image; see --uri-column)" in inputs.notes[0]


def test_rows_may_name_folders_patterns_and_containers(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.path))
    a, b, c = folder.add("a.jpg", b"1"), folder.add("sub/b.jpg", b"2"), folder.add("[odd].jpg", b"3")
    folder.add("sub/notes.txt", b"passed over")
    shard = folder.add("s.tar", tar_bytes([("1.jpg", b"x")]))
    pq.write_table(pa.table({"image": [b"x"]}), folder.path / "t.parquet")
    for row, expected in {
        "~/a.jpg": a,
        "sub\\b.jpg": b,
        "sub/": b,
        "sub": b,
        "s*/*.jpg": b,
        "[odd].jpg": c,
        '"a.jpg"': a,
        "s.tar": shard,
        "t.parquet": f"{folder.path}/t.parquet",
        "no/*.jpg": f"{folder.path}/no/*.jpg",
        "gone/": f"{folder.path}/gone",
    }.items():
        assert uris(folder.add("list.txt", f"{row}\n".encode())) == [expected], row


def test_a_parquet_list_in_a_list_is_one_row(folder: Folder) -> None:
    pq.write_table(pa.table({"uri": ["/a.jpg"]}), folder.path / "in.parquet")
    assert [item.kind for item in items(folder.add("l.txt", b"in.parquet\n"))] == ["image"]


def test_members_in_a_list_change_nothing_for_its_other_rows(folder: Folder) -> None:
    """Each has its version, members that of their file; folders, patterns and Windows' paths are looked for."""
    a, scan = folder.add("st/a.jpg", b"1"), folder.add("scan.tif", b"2")
    shard = folder.add("s.tar", tar_bytes([("x.jpg", b"1")]))
    spelled = ["st", "st\\a.jpg", "st/*.jpg", "scan.tif#page=2", "s.tar#x.jpg", "gone.tar#y.jpg"]
    found = items(folder.add("l.txt", "\n".join(spelled).encode()))
    versions = {uri: items(uri)[0].version for uri in (a, scan, shard)}
    assert [(item.uri, item.version) for item in found] == [
        *[(a, versions[a])] * 3,
        (f"{scan}#page=2", versions[scan]),
        (f"{shard}#x.jpg", versions[shard]),
        (f"{folder.path}/gone.tar#y.jpg", ""),
    ]


def test_a_jobs_own_table_is_no_input(folder: Folder) -> None:
    a = folder.add("a.jpg", b"1")
    for own in ("_runs/r.parquet", "_runs/r.manifest-0.arrow", "_lease/00000001", "captions-r-00000.parquet"):
        folder.add(own, b"not to be read")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage(), output=str(folder.path))
    assert [item.uri for item in inputs.items()] == [a]
    assert not inputs.ignored


def test_what_lies_beside_a_jobs_own_table_is_no_input(folder: Folder) -> None:
    a = folder.add("a.jpg", b"1")
    for own in ("captions-listing/0-000000.arrow", "captions-reviews/x.parquet", "captions/_runs/r.parquet"):
        folder.add(own, b"not to be read")
    pq.write_table(pa.table({"uri": ["/x.jpg"]}), folder.path / "captions-reviews" / "reviews.parquet")
    b = folder.add("captions-more/b.jpg", b"1")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage(), output=f"{folder.path}/captions/")
    assert sorted(item.uri for item in inputs.items()) == [a, b]
    assert not inputs.ignored


def test_another_caption_table_in_a_folder_is_passed_over(folder: Folder) -> None:
    a = folder.add("a.jpg", b"1")
    table = pa.table({"uri": ["/x.jpg"]}).replace_schema_metadata({b"captionkit": b"{}"})
    pq.write_table(table, folder.path / "captions-x.parquet")
    inputs = Inputs(InputOptions(input=(str(folder.path),)), Storage())
    assert [item.uri for item in inputs.items()] == [a]
    assert inputs.ignored == {"caption table": 1}
    assert uris(f"{folder.path}/captions-x.parquet") == ["/x.jpg"]  # named, it is a list


def test_web_addresses_of_containers_may_have_a_query(folder: Folder) -> None:
    shard = "https://h.example/00000.tar?download=true"
    found = items(folder.add("l.txt", f"{shard}\n".encode()), stat_listed=False)
    assert [(item.uri, item.kind) for item in found] == [(shard, "tar")]
    assert split_member(f"{shard}#a/b.jpg") == (shard, "a/b.jpg")
    assert split_member("/a.tar?x#b.jpg")[1] is None  # on disk that is a name


def parquet(folder: Folder, name: str, **columns: list[object]) -> None:
    (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder.path / name)


def test_what_tools_leave_beside_images_is_passed_over_and_counted(folder: Folder) -> None:
    folder.add("00000.tar", b"a shard")  # img2dataset: metadata beside each shard
    parquet(folder, "00000.parquet", url=["http://h/1.jpg"], caption=["a"], width=[1])
    folder.add("00000_stats.json", b"{}")
    folder.add("a.jpg", 1)
    folder.add("0a1b2c", 2)  # a key without a suffix is an image's
    folder.add("_DSC1.JPG", 3)
    folder.add("_extra.tar", b"a shard")
    for name in ("_SUCCESS", "b_$folder$", "README", "_delta_log/00000000000000000000.json"):
        folder.add(name, b"")
    parquet(folder, "_delta_log/1.checkpoint.parquet", path=["x"])
    parquet(folder, "_metadata", image=[b"x"])
    made = Inputs(InputOptions(input=(str(folder.path),)), Storage())
    assert sorted(item.uri[len(str(folder.path)) + 1 :] for item in made.items()) == [
        "00000.tar", "0a1b2c", "_DSC1.JPG", "_extra.tar", "a.jpg",
    ]  # fmt: skip
    assert made.ignored == {
        ".parquet": 2, ".json": 2, "_SUCCESS": 1, "b_$folder$": 1, "README": 1, "_metadata": 1,
    }  # fmt: skip
    assert passed_over(made.ignored).startswith("8 files: ")
    assert uris(str(folder.path), format="webdataset") == [f"{folder.path}/00000.tar", f"{folder.path}/_extra.tar"]


def test_a_parquet_file_that_is_named_is_held_to_more(folder: Folder) -> None:
    parquet(folder, "meta.parquet", key=["1"])
    with pytest.raises(UsageError, match=r"its columns: key \(string\)"):
        items(f"{folder.path}/meta.parquet")
    parquet(folder, "lists.parquet", images=[[b"1", b"2"]])
    with pytest.raises(UsageError, match=r"images \(list<"):
        items(f"{folder.path}/lists.parquet")


@pytest.mark.parametrize("kind", ["dictionary", "binary_view", "large_binary", "fixed"])
def test_image_bytes_of_every_arrow_type_are_found(folder: Folder, kind: str) -> None:
    column = {
        "dictionary": lambda: pa.array([b"ab", b"cd"]).dictionary_encode(),
        "binary_view": lambda: pa.array([b"ab", b"cd"], pa.binary_view()),
        "large_binary": lambda: pa.array([b"ab", b"cd"], pa.large_binary()),
        "fixed": lambda: pa.array([b"ab", b"cd"], pa.binary(2)),
    }[kind]()
    pq.write_table(pa.table({"image": column}), folder.path / "x.parquet")
    [item] = items(f"{folder.path}/x.parquet")
    assert (item.kind, item.row_groups) == ("parquet", (2,))


@pytest.mark.parametrize("name", ["arch [2014]", "what? really*", "a{1..2}", "{a,b}"])
def test_a_folder_that_exists_is_meant_literally(folder: Folder, name: str) -> None:
    image = folder.add(f"{name}/1.jpg", 1)
    for spelled in (f"{folder.path}/{name}", f"{folder.path}/{name}/"):
        assert uris(spelled) == [image]


@pytest.mark.parametrize("name", ["arch [2014]", "what? really*", "a{1..2}"])
def test_a_prefix_that_exists_is_meant_literally(bucket: str, name: str) -> None:
    Storage().write(f"s3://{bucket}/{name}/1.jpg", b"1")
    for spelled in (f"s3://{bucket}/{name}", f"s3://{bucket}/{name}/"):
        assert uris(spelled) == [f"s3://{bucket}/{name}/1.jpg"]


def test_braces_name_each_of_their_files(folder: Folder) -> None:
    shards = [folder.add(f"s/{number:03}.tar", b"") for number in range(3)]
    assert uris(f"{folder.path}/s/{{000..002}}.tar") == shards
    with pytest.raises(UsageError, match=r"003\.tar: no such file"):
        items(f"{folder.path}/s/{{000..003}}.tar")


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.arrow"])
def test_archives_that_are_not_read_are_refused_where_they_are_named(folder: Folder, name: str) -> None:
    folder.add("1.jpg", 1)
    archive = folder.add(name, b"?")
    with pytest.raises(UsageError, match="does not read"):
        items(archive)
    assert uris(str(folder.path)) == [f"{folder.path}/1.jpg"]


def test_a_pattern_within_a_folder_that_exists_is_one(folder: Folder, bucket: str) -> None:
    images = [folder.add(f"arch [2014]/{name}", 1) for name in ("a.jpg", "b.jpg")]
    folder.add("arch 2/c.jpg", 1)
    assert uris(f"{folder.path}/arch [2014]/*.jpg") == images
    assert uris(f"{folder.path}/arch [2]/*.jpg") == [f"{folder.path}/arch 2/c.jpg"]
    Storage().write(f"s3://{bucket}/arch [2014]/a.jpg", b"1")
    assert uris(f"s3://{bucket}/arch [2014]/*.jpg") == [f"s3://{bucket}/arch [2014]/a.jpg"]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_backslash_of_a_name_that_exists_is_its_own(place: str, tmp_path: Path, request: Any) -> None:
    root = str(tmp_path) if place == "local" else f"s3://{request.getfixturevalue('bucket')}"
    storage = Storage()
    for name in ("2014/a.jpg", "b\\c.jpg", "b/c.jpg", "x/y.jpg"):
        storage.write(f"{root}/{name}", b"1")
    lines = ["2014\\a.jpg", "b\\c.jpg", f"{root}/b\\c.jpg", "no\\such.jpg"]
    if place == "s3":
        lines.append(f"{root}/x\\y.jpg")  # nobody spells a whole address as on Windows
    storage.write(f"{root}/list.txt", "\n".join(lines).encode())
    expected = [f"{root}/2014/a.jpg", f"{root}/b\\c.jpg", f"{root}/b\\c.jpg", f"{root}/no\\such.jpg", *lines[4:]]
    assert [item.uri for item in items(f"{root}/list.txt")] == expected


def test_a_file_named_by_braces_is_held_to_what_a_named_file_is_held_to(folder: Folder) -> None:
    a, b = folder.add("a.jpg", b"1"), folder.add("b.jpg", b"2")
    folder.add("one", b"a.jpg\n")  # no suffix: looked into because it is named
    folder.add("two", b"b.jpg\n")
    assert uris(f"{folder.path}/{{one,two}}") == [a, b]
    folder.add("p-0.parquet", b"PAR1, and then nothing")
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        items(f"{folder.path}/p-{{0..0}}.parquet")
    # In a folder behind it, it merely lies.
    assert [item.broken for item in items(f"{folder.path}/{{one,two}}", str(folder.path)) if item.broken] == [True]

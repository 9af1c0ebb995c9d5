import gc
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

from captionkit.images import Limits, Preprocessing, decode
from captionkit.inputs.ids import image_id
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline import fetch as fetch_module
from captionkit.pipeline.caption_actor import pixels_of
from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.fetch import FetchOptions, fetch_unit
from captionkit.pipeline.manifest import make_manifest
from captionkit.pipeline.stream import caption_stream
from captionkit.schema import stored_name
from captionkit.storage import Storage, StorageOptions
from captionkit.table.table import CaptionTable
from tests.support import hostile_decoder as hostile
from tests.support.archive import Folder, jpeg, tar_bytes

SIZE = 32
SMALL = Preprocessing(size=SIZE, resize=SIZE)


def fetch(
    tmp_path: Path, *addresses: str, limits: Limits | None = None, skip: str | None = None, **options: Any
) -> list[dict[str, Any]]:
    """All rows of the inputs, fetched and decoded here, without Ray."""
    storage = Storage()
    inputs = Inputs(InputOptions(input=addresses, **options), storage)
    manifest = make_manifest(inputs, CaptionTable(str(tmp_path / "t"), storage), str(tmp_path / "manifest"))
    fetching = FetchOptions(
        storage=StorageOptions(),
        preprocessing=SMALL,
        limits=limits or Limits(),
        threads=4,
        image_column=options.get("image_column"),
        carry=tuple(inputs.carry_types.items()),
        done=None,
        renamed={name: source for source, name in inputs.options.carried().items()},
        skip=skip,
        each_page=inputs.options.frame == "each",
    )
    return [row for unit in manifest.units for table in fetch_unit(unit, fetching) for row in table.to_pylist()]


def test_images_by_address(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg", 1)
    folder.add("b.jpg", b"")
    listing = folder.add("list.txt", b"a.jpg\nb.jpg\ngone.jpg\n")
    good, empty, gone = fetch(tmp_path, listing)
    assert (good["error_kind"], good["width"], good["height"]) == (None, 64, 64)
    assert len(good["pixels"]) == SIZE * SIZE * 3
    assert good["bytes"] > 500
    assert (empty["error_kind"], empty["pixels"]) == ("empty", None)
    assert gone["error_kind"] == "not_found"
    assert "gone.jpg" in gone["error"]


def test_carried_columns_may_have_the_names_of_the_streams_own(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg", 1)
    names = ("size", "kind", "rows", "read_uri", "fetch_s", "bytes", "carried")
    listing = folder.add("list.csv", f"uri,{','.join(names)}\na.jpg,{','.join('abcdefg')}\n".encode())
    (row,) = fetch(tmp_path, listing, carry=names)
    assert row["error_kind"] is None
    assert [row[stored_name(name)] for name in names] == list("abcdefg")


def test_a_shard_is_read_front_to_back(folder: Folder, tmp_path: Path, pictures: list[bytes]) -> None:
    members = [(f"dir/{n:02d}.left.jpg", data) for n, data in enumerate(pictures)]
    shard = folder.add("s.tar", tar_bytes([*members, ("dir/00.json", b"{}"), ("._x.jpg", b"mac"), ("x.txt", b"t")]))
    rows = fetch(tmp_path, shard, carry=("__key__",))
    assert [row["uri"] for row in rows] == [f"{shard}#{name}" for name, _ in members]
    assert [row["__key__"] for row in rows] == [f"dir/{n:02d}" for n in range(12)]
    assert [row["container_rows"] for row in rows] == [None] * 11 + [12]
    assert {row["error_kind"] for row in rows} == {None}


def test_texts_of_a_shards_samples_are_carried_whether_before_or_behind_their_image(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    jpeg = pictures[0]
    members = [
        ("d/a.jpg", jpeg),
        ("d/a.txt", b"a dog\n"),
        ("d/a.json", b'{"n": 1}'),
        ("d/b.txt", b"caf\xe9"),
        ("d/b.jpg", jpeg),
    ]
    members += [
        ("d/c.jpg", jpeg),
        ("d/d.jpg", jpeg),
        ("d/d.caption", b"a cat"),
        ("d/e.jpg", jpeg),
        ("d/e.txt", b"x" * 2**21),
    ]
    shard = folder.add("s.tar", tar_bytes(members))
    rows = fetch(tmp_path, shard, carry=("txt", "json", "caption"))
    assert [(row["txt"], row["json"], row["input_caption"]) for row in rows] == [
        ("a dog", '{"n": 1}', None),
        ("caf\ufffd", None, None),
        (None, None, None),
        (None, None, "a cat"),
        (None, None, None),
    ]
    assert rows[-1]["passed_over"] is None


def test_carried_columns_of_every_container_can_have_another_name(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    jpeg = pictures[0]
    members = [("a.jpg", jpeg), ("a.txt", b"a dog"), ("a.json", b'{"caption": "a cat", "tags": ["x"], "none": null}')]
    shard = folder.add("s.tar", tar_bytes([*members, ("b.jpg", jpeg), ("b.json", b"[1]"), ("c.jpg", jpeg)]))
    names = ("__key__=key", "txt=old", "json.caption=older", "json.tags=tags", "json.none=none")
    rows = fetch(tmp_path, shard, carry=names)
    assert [[row[name] for name in ("key", "old", "older", "tags", "none")] for row in rows] == [
        ["a", "a dog", "a cat", '["x"]', None],
        ["b", None, None, None, None],
        ["c", None, None, None, None],
    ]
    table = pa.table({"image": [jpeg], "caption": ["a horse"]})
    pq.write_table(table, folder.path / "p.parquet")
    (row,) = fetch(tmp_path / "p", f"{folder.path}/p.parquet", carry=("caption=old",))
    assert row["old"] == "a horse"
    pq.write_table(pa.table({"uri": [folder.add("a.jpg", jpeg)], "caption": ["a bird"]}), folder.path / "l.parquet")
    (row,) = fetch(tmp_path / "l", f"{folder.path}/l.parquet", carry=("caption=old",))
    assert row["old"] == "a bird"


def test_images_that_bring_a_caption_are_not_decoded_where_they_are_skipped(
    folder: Folder, tmp_path: Path, pictures: list[bytes]
) -> None:
    has, blank = folder.add("has.jpg", b"no image"), folder.add("blank.jpg", pictures[0])
    listing = folder.add("l.csv", f"uri,caption\n{has},a dog\n{blank},  \n{has}x.jpg,a cat\n".encode())
    rows = fetch(tmp_path, listing, carry=("caption=old",), skip="old")
    assert [(row["old"], row["pixels"] is None, row["error_kind"], row["bytes"]) for row in rows] == [
        ("a dog", True, None, None),
        ("  ", False, None, len(pictures[0])),
        ("a cat", True, None, None),
    ]


def pages(count: int, format: str = "TIFF") -> bytes:
    """A file of pages: red, green, blue."""
    first, *others = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")[:count]]
    data = io.BytesIO()
    first.save(data, format, save_all=True, append_images=others)
    return data.getvalue()


def test_each_page_of_a_file_is_a_row_and_its_bytes_are_counted_once(folder: Folder, tmp_path: Path) -> None:
    tif, gif = folder.add("a.tif", pages(3)), folder.add("b.gif", pages(2, "GIF"))
    one, bad, plain = folder.add("c.tif", pages(1)), folder.add("d.tif", b"II*\0junk"), folder.add("e.jpg", 1)
    listing = folder.add(
        "l.csv", "".join(f"{uri},x\n" for uri in ("uri", tif, gif, one, bad, f"{tif}f", plain)).encode()
    )
    found = {row["uri"]: row for row in fetch(tmp_path, listing, carry=("x",), frame="each")}
    assert list(found) == [
        *(plain, *(f"{tif}#page={page}" for page in (1, 2, 3)), *(f"{gif}#page={page}" for page in (1, 2))),
        *(one, bad, f"{tif}f"),
    ]
    assert [row["container_rows"] for row in found.values()] == [None, 3, 3, 3, 2, 2, 1, 1, 1]
    assert [row["error_kind"] for row in found.values()][-2:] == ["truncated", "not_found"]
    assert {row["x"] for row in found.values()} == {"x"}
    version = Storage().stat(tif).version
    for page in (1, 2, 3):
        row = found[f"{tif}#page={page}"]
        assert row["image_id"] == image_id(f"{tif}#page={page}", version)
        assert np.frombuffer(row["pixels"], np.uint8).reshape(-1, 3).mean(axis=0).argmax() == page - 1
        assert (row["bytes"] is None) == (page > 1)


def test_pages_of_a_shards_members_are_rows_with_the_texts_of_their_sample(folder: Folder, tmp_path: Path) -> None:
    members = [
        ("x.tif", pages(3)),
        ("x.txt", b"three"),
        ("y.txt", b"one"),
        ("y.jpg", jpeg(1)),
        ("z.gif", pages(2, "GIF")),
    ]
    shard = folder.add("s.tar", tar_bytes(members))
    found = fetch(tmp_path, shard, carry=("txt",), frame="each")
    assert [row["uri"].partition("#")[2] for row in found] == [
        *("x.tif#page=1", "x.tif#page=2", "x.tif#page=3", "y.jpg", "z.gif#page=1", "z.gif#page=2"),
    ]
    assert [row["txt"] for row in found] == ["three", "three", "three", "one", None, None]
    assert [row["container_rows"] for row in found] == [None] * 5 + [6]
    assert fetch(tmp_path / "2", shard)[0]["uri"] == f"{shard}#x.tif"


def test_a_file_whose_pages_cannot_be_counted_is_one_failed_row(folder: Folder, tmp_path: Path) -> None:
    """Its first page could be read, and the others would be missing without a word."""
    whole = pages(4)
    folder.add("cut.tif", whole[: len(whole) * 6 // 10])
    folder.add("s.tar", tar_bytes([("x.tif", whole[: len(whole) * 6 // 10])]))
    found = {row["uri"]: row["error_kind"] for row in fetch(tmp_path, str(folder.path), frame="each")}
    assert {uri.rpartition("/")[2] for uri in found} == {"cut.tif", "s.tar#x.tif"}
    assert None not in found.values()


def test_a_file_of_too_many_pages_is_one_failed_row(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "MAX_PAGES", 2)
    folder.add("a.tif", pages(3))
    folder.add("s.tar", tar_bytes([("x.tif", pages(3)), ("y.tif", pages(2))]))
    found = {row["uri"].rpartition("/")[2]: row["error"] for row in fetch(tmp_path, str(folder.path), frame="each")}
    assert [name for name, error in found.items() if error is None] == ["s.tar#y.tif#page=1", "s.tar#y.tif#page=2"]
    assert "3 pages or frames, and of one file 2 at most" in (found["a.tif"] or "")
    assert found["a.tif"] == found["s.tar#x.tif"]


@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_shard_cut_off_gives_what_came_before(
    folder: Folder, tmp_path: Path, pictures: list[bytes], kept: float
) -> None:
    whole = tar_bytes([(f"{n}.jpg", data) for n, data in enumerate(pictures)])
    body = sum(512 + -(-len(data) // 512) * 512 for data in pictures)
    *before, broken = fetch(tmp_path, folder.add("s.tar", whole[: int(body * kept)]))
    assert 0 < len(before) < 12
    assert {row["error_kind"] for row in before} == {None}
    assert (broken["uri"], broken["error_kind"]) == (f"{folder.path}/s.tar", "truncated")
    assert broken["container_rows"] == len(before) + 1
    assert f"after {len(before)} images" in broken["error"]


def test_what_is_no_tar_is_one_failed_row(folder: Folder, tmp_path: Path) -> None:
    (row,) = fetch(tmp_path, folder.add("s.tar", b"no tar at all" * 100))
    assert (row["error_kind"], row["pixels"]) == ("truncated", None)


def test_a_member_over_the_limit_is_not_read(folder: Folder, tmp_path: Path, pictures: list[bytes]) -> None:
    shard = folder.add("s.tar", tar_bytes([("big.jpg", b"x" * 100_000), ("good.jpg", pictures[0])]))
    big, good = fetch(tmp_path, shard, limits=Limits(max_bytes=50_000))
    assert big["error_kind"] == "too_many_bytes"
    assert big["bytes"] == 50_001
    assert good["error_kind"] is None


def test_a_file_listed_as_too_large_is_not_read(folder: Folder, tmp_path: Path) -> None:
    big = folder.add("big.jpg", b"x" * 1001)
    (row,) = fetch(tmp_path, big, limits=Limits(max_bytes=1000))
    assert row["error_kind"] == "too_many_bytes"
    assert row["bytes"] is None


@pytest.mark.parametrize("hugging_face", [True, False])
def test_parquet_rows(tmp_path: Path, pictures: list[bytes], hugging_face: bool) -> None:
    images: pa.Array = pa.array([*pictures[:4], None])
    if hugging_face:
        images = pa.array([{"bytes": data, "path": None} for data in [*pictures[:4], None]])
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2, 3, 4]}), file, row_group_size=2)
    rows = fetch(tmp_path, str(file), carry=("label",))
    assert [row["uri"] for row in rows] == [f"{file}#{n}" for n in range(5)]
    assert [row["label"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["error_kind"] for row in rows] == [None] * 4 + ["empty"]
    assert {row["container_rows"] for row in rows} == {5}


def test_pixels_survive_the_columns(folder: Folder, tmp_path: Path) -> None:
    uris = [folder.add(f"{n}.jpg", n) for n in range(5)]
    rows = fetch(tmp_path, *uris)
    column = pa.chunked_array(
        [
            pa.array([None, rows[0]["pixels"], rows[1]["pixels"]], pa.binary()).slice(1),
            pa.array([], pa.binary()),
            pa.array([rows[2]["pixels"], None, rows[3]["pixels"], rows[4]["pixels"]], pa.binary()),
        ]
    )
    pixels = pixels_of(column, SIZE)
    assert pixels.shape == (5, SIZE, SIZE, 3)
    for picture, row in zip(pixels, rows, strict=True):
        assert np.array_equal(picture.reshape(-1), np.frombuffer(row["pixels"], np.uint8))
    assert pixels_of(pa.chunked_array([pa.array([None], pa.binary())]), SIZE).shape == (0, SIZE, SIZE, 3)


def test_chunks_of_large_images_are_short(
    folder: Folder, tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "CHUNK_BYTES", 9 * len(pictures[0]))
    lengths = []
    monkeypatch.setattr(fetch_module, "_table", lambda rows, *rest: lengths.append(len(rows)) or table_of(rows, *rest))
    shard = folder.add("s.tar", tar_bytes([(f"{n:03}.jpg", pictures[n % 12]) for n in range(60)]))
    rows = fetch(tmp_path, shard)
    assert [row["uri"] for row in rows] == [f"{shard}#{n:03}.jpg" for n in range(60)]
    assert {row["error_kind"] for row in rows} == {None}
    assert all(row["decode_s"] > 0 for row in rows)
    assert sorted(lengths) == [4, *[8] * 7]  # twice one a thread


def ids_of_blocks(tables: Iterator[pa.Table], options: FetchOptions) -> list[list[int]]:
    """The image ids of each block that Ray Data makes of a fetch task's tables."""
    buffer = BlockOutputBuffer(OutputBlockSizeOption.of(target_max_block_size=options.block_bytes))
    found = []
    for table in tables:
        buffer.add_block(table)
        found += [block["image_id"].to_pylist() for block in buffer.iter_ready_blocks()]
    buffer.finalize()
    return found + [block["image_id"].to_pylist() for block in buffer.iter_ready_blocks()]


@pytest.mark.parametrize("kind", ["images", "tar", "parquet"])
@pytest.mark.parametrize("average", [3, 1000])
def test_a_task_that_runs_again_gives_the_same_blocks_though_other_images_fail(
    folder: Folder, tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch, kind: str, average: int
) -> None:
    monkeypatch.setattr(fetch_module, "CHUNK_BYTES", average * len(pictures[0]) * 4)
    monkeypatch.setattr("captionkit.pipeline.manifest.rows_per_unit", lambda _: 1024)
    data = [pictures[n % 12] + bytes(n * 40) for n in range(290)]  # of all sizes
    inputs = str(folder.path)
    if kind == "tar":
        inputs = folder.add("s.tar", tar_bytes([(f"{n:03}.jpg", each) for n, each in enumerate(data)]))
    elif kind == "parquet":
        inputs = str(tmp_path / "train.parquet")
        pq.write_table(pa.table({"image": data}), inputs)
    else:
        for n, each in enumerate(data):
            folder.add(f"{n:03}.jpg", each)
    storage = Storage()
    listed = Inputs(InputOptions(input=(inputs,)), storage)
    manifest = make_manifest(listed, CaptionTable(str(tmp_path / "t"), storage), str(tmp_path / "manifest"))
    (unit,) = manifest.units
    options = FetchOptions(StorageOptions(), SMALL, Limits(), 4, None, (), None)
    first = ids_of_blocks(fetch_unit(unit, options), options)
    read = fetch_module._fetch
    calls = iter(range(10**6))

    def fail(item: Any) -> tuple[dict[str, Any], bytes | None]:
        row, data = read(item)
        # Two of three fail, and the first 40 all: of these no size is learnt by reading.
        if (number := next(calls)) < 40 or number % 3:
            return {**row, "bytes": None, "error_kind": "read_error", "error": f"a long story of {number} " * 6}, None
        return row, data

    monkeypatch.setattr(fetch_module, "_fetch", fail)
    again = ids_of_blocks(fetch_unit(unit, options), options)
    assert sum(map(len, first)) == 290
    assert len(first) > 1
    assert again == first


table_of = fetch_module._table


def test_no_pixels_stay_behind(folder: Folder, tmp_path: Path) -> None:
    for number in range(20):
        folder.add(f"{number}.jpg", number)

    def kept() -> int:
        fetch(tmp_path, str(folder.path))
        gc.collect()
        return sum(isinstance(each, memoryview | np.ndarray) for each in gc.get_objects())

    before = kept()
    assert kept() < before + 5


@pytest.mark.usefixtures("ray_cluster")
def test_three_hostile_files_among_sixty_cost_three_rows(folder: Folder, tmp_path: Path) -> None:
    marks = {11: hostile.CRASH, 30: hostile.HANG, 31: hostile.HOG}
    files = [jpeg(n) + marks.get(n, b"") for n in range(63)]
    for n, data in enumerate(files):
        folder.add(f"{n:02}.jpg", data)
    storage = Storage()
    inputs = Inputs(InputOptions(input=(str(folder.path),)), storage)
    manifest = make_manifest(inputs, CaptionTable(str(tmp_path / "t"), storage), str(tmp_path / "manifest"))
    limits = Limits(max_bytes=2**20, max_pixels=1_000_000)
    fetching = FetchOptions(StorageOptions(), SMALL, limits, 4, None, (), None, 5.0, hostile.NAME)

    class Keep:
        def __call__(self, table: pa.Table) -> pa.Table:
            return table.append_column("pid", pa.array([os.getpid()] * len(table)))

    pool = Pool(low=1, high=1, gpus=0, cpus=0.5, fetch_cpus=1, threads=1)
    rows = sorted(caption_stream(manifest.units, fetching, pool, Keep, (), 16).take_all(), key=lambda row: row["uri"])
    assert [Path(row["uri"]).name for row in rows] == [f"{n:02}.jpg" for n in range(63)]
    failed = {n: row["error_kind"] for n, row in enumerate(rows) if row["error_kind"]}
    assert failed == {11: "decoder_crashed", 30: "decode_timeout", 31: "too_many_pixels"}
    assert {row["pid"] for row in rows} != {os.getpid()}
    for n, row in enumerate(rows):
        assert (row["pixels"] is None) == (n in marks)
        assert n in marks or row["pixels"] == decode(files[n], SMALL).pixels.tobytes()

import io
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captionkit.cli import OK, TOO_MANY_FAILED, USAGE, main
from captionkit.cli.options import parse
from captionkit.model.calibration import Calibration
from captionkit.model.captioner import Captioner
from captionkit.pipeline.job import CaptionJob
from captionkit.pipeline.options import CaptionOptions
from captionkit.schema import ERROR_KINDS, SCHEMA
from captionkit.storage import Storage
from captionkit.storage.documents import from_document
from captionkit.table.table import CaptionTable
from tests.support.archive import Folder, jpeg, tar_bytes
from tests.support.image_zoo import broken, encode
from tests.support.table_rows import rows as table_rows
from tests.support.table_rows import write

pytestmark = pytest.mark.usefixtures("ray_cluster")


def caption(*args: str | Path) -> int:
    return main(["caption", *map(str, args)])


def read(output: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(output).to_pylist(), key=lambda row: row["uri"])


def records(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "_runs").glob("*.parquet"), key=os.path.getmtime)
    return [from_document(file.read_bytes()) for file in files]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "captions"


def test_every_kind_of_input_in_one_run(folder: Folder, output: Path, pictures: list[bytes]) -> None:
    loose = [folder.add(f"loose/{n}.jpg", pictures[n]) for n in range(3)]
    listed = folder.add("elsewhere/x.jpg", pictures[3])
    folder.add("list.csv", f"uri,label\n{listed},seven\n".encode())
    folder.add("shards/a.tar", tar_bytes([("1.jpg", pictures[4]), ("2.jpg", pictures[5])]))
    images = pa.table({"image": [{"bytes": pictures[6], "path": "p"}], "label": ["eight"]})
    pq.write_table(images, folder.path / "p.parquet")
    root = folder.path
    code = caption(
        "--input", root / "loose", root / "list.csv", root / "shards", root / "p.parquet",
        "--output", output, "--carry", "label", "--n-best", "2",
    )  # fmt: skip
    assert code == OK
    rows = read(output)
    assert {row["uri"]: row["label"] for row in rows} == {
        **dict.fromkeys(loose),
        listed: "seven",
        f"{root}/shards/a.tar#1.jpg": None,
        f"{root}/shards/a.tar#2.jpg": None,
        f"{root}/p.parquet#0": "eight",
    }
    assert pq.read_schema(next(output.glob("*.parquet"))).names == [*SCHEMA.names, "label"]
    # Whatever an image came in, its caption is what the library says of its bytes.
    captioner = Captioner.load()
    expected = captioner.caption([pictures[n] for n in (3, 0, 1, 2, 6, 4, 5)], n_best=2)
    assert [row["caption"] for row in rows] == [found.text for found in expected]
    assert [row["score"] for row in rows] == pytest.approx([found.score for found in expected], abs=1e-4)
    assert all(len(row["alternatives"]) == 1 for row in rows)
    assert {row["model"] for row in rows} == {captioner.fingerprint}
    assert {(row["status"], row["width"], row["height"]) for row in rows} == {("captioned", 64, 64)}


@pytest.mark.slow
def test_captions_that_images_bring_are_kept_or_skipped_for(
    folder: Folder, tmp_path: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder.add(f"{n}.jpg", pictures[n]) for n in range(3)]
    listing = folder.add("l.csv", f"uri,caption\n{paths[0]},a dog\n{paths[1]},\n{paths[2]},a cat\n".encode())
    found = {}
    for existing in ("keep", "skip"):
        options = ("--input", listing, "--carry", "caption=old", "--existing", existing, "--n-best", "2")
        assert caption(*options, "--output", tmp_path / existing) == OK
        found[existing] = read(tmp_path / existing)
        assert records(tmp_path / existing)[0]["counts"]["existing"] == 2
        assert "2 of these with the caption that the image brought" in capsys.readouterr().err
        assert main(["check", str(tmp_path / existing)]) == OK
        assert caption(*options, "--output", tmp_path / existing) == OK
        assert records(tmp_path / existing)[-1]["counts"]["done_before"] == 3
    ours = Captioner.load().caption(pictures[:3])
    for kept, skipped, own, text in zip(found["keep"], found["skip"], ours, ("a dog", None, "a cat"), strict=True):
        assert kept["caption"] == skipped["caption"] == (text or own.text)
        assert (kept["model"] == "input") == (skipped["model"] == "input") == (text is not None)
        assert (kept["old"] or None) == text
        if text:
            assert (kept["alternatives"][0]["caption"], kept["score"]) == (own.text, None)
            assert (skipped["alternatives"], skipped["width"]) == (None, None)


@pytest.mark.slow
def test_each_page_has_a_row_that_comes_again_where_it_is_missing(
    folder: Folder, output: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.open(io.BytesIO(data)) for data in pictures[:3]]
    made = io.BytesIO()
    frames[0].save(made, "TIFF", save_all=True, append_images=frames[1:])
    scan, shard = folder.add("scan.tif", made.getvalue()), folder.add("s.tar", tar_bytes([("x.tif", made.getvalue())]))
    folder.add("one.tif", encode(frames[0], "TIFF"))
    options = ("--input", folder.path, "--output", output, "--frame", "each")
    assert caption(*options) == OK
    expected = [found.text for found in Captioner.load().caption(pictures[:3])]
    pages = {row["uri"]: row["caption"] for row in read(output)}
    for file in (scan, f"{shard}#x.tif"):
        assert [pages[f"{file}#page={page}"] for page in (1, 2, 3)] == expected
    assert len(pages) == 7
    assert main(["check", str(output), "--members"]) == OK
    table = CaptionTable(str(output), Storage())
    lost = [f"{scan}#page=2", f"{shard}#x.tif#page=3"]
    ids = [row["image_id"] for row in read(output) if row["uri"] in lost]
    assert table.drop([(file, pa.array(sorted(ids)).to_numpy()) for file in list(table.files)]) == 2
    assert main(["check", str(output)]) != OK
    capsys.readouterr()
    assert caption(*options) == OK
    assert "captioned 2, failed 0" in capsys.readouterr().err
    assert {row["uri"]: row["caption"] for row in read(output)} == pages
    assert main(["check", str(output), "--members"]) == OK
    assert caption("--input", folder.path, "--output", output) == OK
    assert len(read(output)) == 7


@pytest.mark.slow
def test_a_file_and_its_pages_in_one_list_are_a_row_each(
    folder: Folder, output: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    frames, made = [Image.open(io.BytesIO(data)) for data in pictures[:3]], io.BytesIO()
    frames[0].save(made, "TIFF", save_all=True, append_images=frames[1:])
    scan, shard = folder.add("scan.tif", made.getvalue()), folder.add("s.tar", tar_bytes([("x.jpg", pictures[3])]))
    lines = [f"{scan}#page=2", scan, f"{shard}#x.jpg", shard]
    listing = folder.add("list.txt", "\n".join(lines).encode())
    options = ("--output", output, "--frame", "each")
    assert caption("--input", listing, *options) == OK
    rows = [f"{scan}#page={page}" for page in (1, 2, 3)] + [f"{shard}#x.jpg"]
    assert sorted(row["uri"] for row in read(output)) == sorted(rows)
    # The same pages, whether a list names them or their file.
    before = read(output)
    capsys.readouterr()
    for inputs in (listing, scan, shard):
        assert caption("--input", inputs, *options) == OK
    assert "replaced" not in capsys.readouterr().err
    assert read(output) == before
    assert main(["check", str(output), "--members"]) == OK


def test_reruns_do_what_is_missing_or_changed_and_say_when_too_many_failed(
    folder: Folder, output: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folder.add("a.jpg", pictures[0]), folder.add("b.jpg", pictures[1])
    names = [f"{n}.jpg" for n in range(8)]
    shard = folder.add("s.tar", tar_bytes(zip(names, pictures, strict=False)))
    members = [f"{shard}#{name}" for name in names]
    # Few images a table file, so that one can be taken away.
    options = ("--input", folder.path, "--output", output, "--batch-size", "1", "--flush-rows", "1")
    assert caption(*options) == OK
    first = read(output)
    assert [row["uri"] for row in first] == [a, b, *members]

    assert caption(*options) == OK
    assert read(output) == first
    assert "already in the table: 2 images and 1 shard or file" in capsys.readouterr().err
    assert records(output)[-1]["counts"] == {
        "captioned": 0, "failed": 0, "listed": 2, "containers": 1, "duplicates": 0, "blank": 0,
        "done_before": 2, "containers_done_before": 1, "replaced": 0, "retried": 0,
    }  # fmt: skip

    # One is new and broken, one is another than before, and of the shard a part is missing, as if a driver had died.
    c = folder.add("c.jpg", b"")
    folder.add("a.jpg", pictures[5])
    os.utime(a, ns=(0, 1))
    (file,) = (file for file in output.glob("*.parquet") if members[2] in pq.read_table(file)["uri"].to_pylist())
    lost = set(pq.read_table(file)["uri"].to_pylist())
    file.unlink()
    page = output.parent / "page.html"
    assert caption(*options, "--page", page) == TOO_MANY_FAILED
    third = read(output)
    assert [row["uri"] for row in third] == [a, b, c, *members]
    assert third[0]["image_id"] != first[0]["image_id"]
    assert third[2]["status"] == "failed"
    before = {row["uri"]: row for row in first if row["uri"] != a}
    assert all(third_row == before[uri] for third_row in third if (uri := third_row["uri"]) in before.keys() - lost)
    assert {row["uri"]: row["caption"] for row in third[1:] if row["caption"]} == {
        uri: row["caption"] for uri, row in before.items()
    }
    assert records(output)[-1]["status"] == "too_many_failed"
    counts = records(output)[-1]["counts"]
    assert (counts["captioned"], counts["failed"], counts["replaced"]) == (len({a} | lost), 1, int(a not in lost))
    assert "<html" in page.read_text()

    assert caption(*options) == OK
    assert read(output) == third
    assert records(output)[-1]["counts"]["containers_done_before"] == 1


def test_a_thousand_images_fifty_of_them_broken(folder: Folder, output: Path) -> None:
    names = (
        "empty.jpg", "text.jpg", "error-page.jpg", "noise.jpg", "layers.xcf",
        "favicon.ico", "cut-early.jpeg", "cut-late.png", "damaged.png", "bomb.png",
    )  # fmt: skip
    bad = [image for image in broken() if image.name in names]
    assert len(bad) == 10
    expected: dict[str, str | None] = {}
    body = [jpeg(seed, 48) for seed in range(50)]
    for n in range(950):
        expected[folder.add(f"{n % 7}/good-{n:04d}.jpg", body[n % 50])] = None
    for n in range(50):
        image = bad[n % 10]
        expected[folder.add(f"{n % 7}/bad-{n:02d}.jpg", image.data)] = image.kind
    code = caption("--input", folder.path, "--output", output, "--max-failed", "0.05")
    assert code == OK  # 5 % is the limit, not past it
    rows = read(output)
    assert {row["uri"]: row["error_kind"] for row in rows} == expected
    assert Counter(row["status"] for row in rows) == {"captioned": 950, "failed": 50}
    for row in rows:
        if row["status"] == "failed":
            assert row["caption"] is None
            assert row["error_kind"] in ERROR_KINDS
            assert row["error"]
            assert "\n" not in row["error"]
        else:
            assert row["caption"]
    record = records(output)[-1]
    assert record["failures"] == Counter(kind for kind in expected.values() if kind)
    assert record["counts"]["captioned"] == 950
    assert len(list(output.glob("*.parquet"))) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A list of one image, and the table of a run on it."""
    root = tmp_path_factory.mktemp("made")
    (root / "a.jpg").write_bytes(jpeg(1))
    (root / "list.csv").write_text(f"uri,label\n{root / 'a.jpg'},x\n")
    options = ("--beam", "2", "--max-length", "9")
    assert caption("--input", root / "list.csv", "--output", root / "captions", *options) == OK
    return root / "list.csv", root / "captions"


@pytest.fixture
def table(made: tuple[Path, Path], output: Path) -> Path:
    """The same table, for one test alone."""
    return shutil.copytree(made[1], output)


def test_the_run_record_repeats_the_run(table: Path, tmp_path: Path) -> None:
    record = records(table)[-1]
    file = next((table / "_runs").glob("*.parquet"))
    assert record["options"]["beam"] == 2
    assert record["status"] == "succeeded"
    assert record["model"]["fingerprint"] == Captioner.load().fingerprint
    assert set(record["seconds"]) >= {"listing", "starting", "captioning", "writing", "fetch", "decode", "caption"}
    assert record["versions"]["ray"]
    again = tmp_path / "again"
    assert caption("--config", file, "--output", again) == OK
    assert [row["caption"] for row in read(again)] == [row["caption"] for row in read(table)]
    assert records(again)[-1]["options"] == {**record["options"], "output": str(again)}


@pytest.mark.slow
def test_a_captioner_with_a_calibration_says_how_sure_it_is(folder: Folder, output: Path, tmp_path: Path) -> None:
    captioner = Captioner.load(dtype="float32")
    captioner.calibration = Calibration((-2.0, -0.01), (0.1, 0.9), "as people's", 100, "beam 5")
    name = captioner.save(tmp_path / "bundle")
    for number in range(3):
        folder.add(f"{number}.jpg", jpeg(number))
    folder.add("broken.jpg", b"no picture")
    folder.add("list.csv", "\n".join(["uri,confidence", *(f"{folder.path}/{n}.jpg,mine" for n in range(3))]).encode())
    folder.add("list.csv", (folder.path / "list.csv").read_bytes() + f"\n{folder.path}/broken.jpg,mine".encode())
    code = caption(
        "--input", folder.path / "list.csv", "--carry", "confidence", "--model", tmp_path / "bundle",
        "--output", output, "--max-failed", "1",
    )  # fmt: skip
    assert code == OK
    rows = read(output)
    assert pq.read_schema(next(output.glob("*.parquet"))).names == [*SCHEMA.names, "confidence", "input_confidence"]
    for row in rows:
        assert row["input_confidence"] == "mine"
        if row["status"] == "captioned":
            assert row["confidence"] == pytest.approx(captioner.calibration.chance([row["score"]])[0])
        else:
            assert row["confidence"] is None
    assert {row["model"] for row in rows} == {name}
    assert main(["check", str(output)]) == OK
    sure = max(row["confidence"] or 0 for row in rows) - 1e-6
    csv = tmp_path / "sure.csv"
    assert main(["export", str(output), str(csv), "--where", f"confidence >= {sure:.9f}"]) == OK
    assert len(csv.read_text().splitlines()) < 4


def test_a_table_begun_without_confidence_gets_none_and_log_and_record_say_so(
    folder: Folder, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioner = Captioner.load(dtype="float32")
    captioner.calibration = Calibration((-2.0, -0.01), (0.1, 0.9), "as people's", 100, "beam 5")
    captioner.save(tmp_path / "bundle")
    write(output, table_rows(["/a.jpg"]))
    words = ["--input", folder.add("b.jpg", 1), "--output", output, "--model", tmp_path / "bundle"]
    job = CaptionJob(parse(CaptionOptions, "caption", [*map(str, words), "--mixed"]))
    [note] = job.record.notes
    assert "is calibrated, but the table was begun without a column `confidence`" in note
    assert note in capsys.readouterr().err
    job = CaptionJob(parse(CaptionOptions, "caption", [*map(str, words), "--output", str(tmp_path / "new")]))
    assert job.record.notes == []


def test_another_makers_table_is_refused_or_mixed_on_request(
    folder: Folder, made: tuple[Path, Path], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ("--input", made[0], folder.add("b.jpg", 2), "--output", table)
    before = read(table)
    assert caption(*inputs, "--beam", "7", "--max-length", "9") == USAGE
    message = capsys.readouterr().err
    assert "beam=7" in message
    assert "--mixed" in message
    assert read(table) == before
    assert caption(*inputs, "--beam", "7", "--max-length", "9", "--mixed") == OK
    assert len(read(table)) == 2


def test_other_carried_columns_are_refused_before_anything_is_touched(
    made: tuple[Path, Path], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(table)
    os.utime(made[0].parent / "a.jpg", ns=(0, 1))  # as if it had changed
    options = ("--beam", "2", "--max-length", "9", "--carry", "label")
    assert caption("--input", made[0], "--output", table, *options) == USAGE
    assert "one table has one schema" in capsys.readouterr().err
    assert read(table) == before

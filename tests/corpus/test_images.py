"""Listing of images, and names looked up in it."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from captionkit.corpus import CorpusError, list_images, read_corpus
from captionkit.errors import UsageError
from captionkit.storage import Storage, StorageError
from captionkit.storage.archives import listing
from tests.corpus.reading import read_back


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def shard(path: Path, *names: str, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            out.addfile(member, io.BytesIO(name.encode()))
    return path


class Counting(io.BufferedReader):
    """A file that knows how much was read from it."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file.raw)
        self.bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_folders_shards_and_patterns(tmp_path: Path) -> None:
    touch(tmp_path / "f" / "a.jpg", tmp_path / "f" / "sub" / "b.jpg", tmp_path / "f" / ".hidden.jpg")
    plain = shard(tmp_path / "f" / "s-0.tar", "./c.jpg", "x/d.jpg")
    packed = shard(tmp_path / "s-1.tgz", "e.jpg", mode="w:gz")
    storage = Storage()
    assert sorted(list_images(storage, [f"{tmp_path}/f/", f"{tmp_path}/*.tgz"])) == [
        ("a.jpg", f"{tmp_path}/f/a.jpg"),
        ("c.jpg", f"{plain}#./c.jpg"),
        ("e.jpg", f"{packed}#e.jpg"),
        ("sub/b.jpg", f"{tmp_path}/f/sub/b.jpg"),
        ("x/d.jpg", f"{plain}#x/d.jpg"),
    ]
    assert list(list_images(storage, f"{tmp_path}/f/a.jpg")) == [("a.jpg", f"{tmp_path}/f/a.jpg")]
    assert storage.read(f"{plain}#./c.jpg") == b"./c.jpg"


def test_shards_are_listed_as_they_are_read(tmp_path: Path) -> None:
    first, second = (shard(tmp_path / f"{name}.part", f"{name}.jpg").read_bytes() for name in "ab")
    (tmp_path / "cat.tar").write_bytes(first + second)
    (tmp_path / "packed.tar").write_bytes(gzip.compress(first) + gzip.compress(second))
    with pa.CompressedOutputStream(pa.OSFile(f"{tmp_path}/z.tar.zst", "wb"), "zstd") as out:
        out.write(first)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("d/a.jpg", "a.jpg")
    storage = Storage()
    found = {
        file: list(list_images(storage, f"{tmp_path}/{file}"))
        for file in ("cat.tar", "packed.tar", "z.tar.zst", "z.zip")
    }
    assert {file: [name for name, _ in images] for file, images in found.items()} == {
        "cat.tar": ["a.jpg", "b.jpg"],
        "packed.tar": ["a.jpg", "b.jpg"],
        "z.tar.zst": ["a.jpg"],
        "z.zip": ["d/a.jpg"],
    }
    for name, address in [image for images in found.values() for image in images]:
        assert storage.read(address) == name.rpartition("/")[2].encode()


def test_of_a_plain_tar_only_headers_are_read(tmp_path: Path) -> None:
    large = tmp_path / "large.tar"
    with tarfile.open(large, "w") as out:
        for name in ("a.jpg", "b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 2**22
            out.addfile(member, io.BytesIO(bytes(2**22)))
    with large.open("rb") as file:
        counting = Counting(file)
        assert [member.name for member in listing(counting)] == ["a.jpg", "b.jpg"]
    assert counting.bytes_read < 2**15


def test_places_that_are_not_there(tmp_path: Path) -> None:
    storage = Storage()
    with pytest.raises(StorageError, match="nothing at this address"):
        list(list_images(storage, str(tmp_path / "no")))
    with pytest.raises(CorpusError, match="this pattern matches no file"):
        list(list_images(storage, f"{tmp_path}/*.tar"))
    (tmp_path / "torn.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(CorpusError, match=r"torn\.tar: the shard is broken"):
        list(list_images(storage, str(tmp_path / "torn.tar")))


def test_names_are_looked_up_by_the_best_fit(tmp_path: Path) -> None:
    images = tmp_path / "images"
    touch(*(images / name for name in ("one/x.jpg", "two/x.jpg", "y.jpg", "deep/two/z.jpg", "w 1.jpg")))
    twice = tmp_path / "again"
    touch(twice / "y.jpg")
    text = "\n".join(
        ["image,caption"]
        + [f"{name},A dog" for name in ("two/x.jpg", "x.jpg", "y.jpg", "/kaggle/input/two/z.jpg", "far/w 1.jpg")]
        + [f"{name},A dog" for name in ("no.jpg", "s3://elsewhere/y.jpg", "./one/x.jpg", r"one\x.jpg", "..")]
    )
    records, report = read_back("lookup.csv", text, images=[str(images), str(twice)])
    assert [record.image.removeprefix(f"{images}/") for record in records] == [
        "two/x.jpg",
        "y.jpg",
        "deep/two/z.jpg",
        "w 1.jpg",
        "s3://elsewhere/y.jpg",
        "one/x.jpg",
        "one/x.jpg",
    ]
    assert report.left_out == {"image_ambiguous": 1, "image_missing": 2}
    assert report.noted == {"twice_there": 1}


def test_a_backslash_of_an_image_that_is_there_is_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "b\\c.jpg", tmp_path / "b" / "c.jpg", tmp_path / "2014" / "a.jpg")
    text = "image,caption\n" + "".join(f"{name},A dog\n" for name in (r"b\c.jpg", r"2014\a.jpg", r"far/2014\a.jpg"))
    records, _ = read_back("windows.csv", text, images=str(tmp_path))
    assert [record.image.removeprefix(f"{tmp_path}/") for record in records] == [
        r"b\c.jpg",
        "2014/a.jpg",
        "2014/a.jpg",
    ]


def test_captions_whose_image_is_missing_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    rows = "a.jpg#0\tA dog\n" + "".join(f"2258277193_586949ec62.jpg.1#{n}\tA cat\n" for n in range(5))
    records, report = read_back("orphan.token.txt", rows, images=str(tmp_path))
    assert [record.image for record in records] == [str(tmp_path / "a.jpg")]
    assert report.left_out == {"image_missing": 5}
    assert "5 captions whose image was not found, such as: 2258277193_586949ec62.jpg.1" in str(report)


def test_without_a_look_names_are_joined() -> None:
    records, report = read_back("join.csv", "image,caption\nb/a.jpg,A dog\n", images="s3://bucket/i/", check=False)
    assert [record.image for record in records] == ["s3://bucket/i/b/a.jpg"]
    assert not report.checked


def test_what_cannot_be_looked_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="web addresses cannot be listed"):
        read_back("web.csv", "image,caption\na.jpg,A dog\n", images="https://example.com/i/")
    for images in (["a", "b"], "x.tar"):
        with pytest.raises(UsageError, match="check=False takes one folder"):
            read_corpus("x.csv", images=images, check=False)
    with pytest.raises(UsageError, match="images names no place"):
        read_corpus("x.csv", images=[])


@pytest.mark.parametrize("place", ["local", "s3"])
def test_braces_stand_for_shards_and_files_unless_one_has_that_name(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if place == "local" else f"s3://{request.getfixturevalue('bucket')}"
    storage = Storage()
    for number in range(3):
        packed = shard(tmp_path / f"made-{number}.tar", f"{number}.jpg")
        storage.write(f"{root}/train-{number:02d}.tar", packed.read_bytes())
        storage.write(f"{root}/captions-{number}.csv", f"image,caption\n{number}.jpg,A dog\n".encode())
    corpus = read_corpus(f"{root}/captions-{{0..1}}.csv", [f"{root}/train-{{00..02}}.tar"])
    assert [record.image for record in corpus] == [f"{root}/train-00.tar#0.jpg", f"{root}/train-01.tar#1.jpg"]
    storage.write(f"{root}/captions-{{0..1}}.csv", b"image,caption\n2.jpg,A dog\n")
    assert [record.image for record in corpus] == [f"{root}/train-02.tar#2.jpg"]

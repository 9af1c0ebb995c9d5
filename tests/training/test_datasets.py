"""Data sets in the layouts in which people have them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from captionkit.corpus import read_corpus
from captionkit.errors import UsageError
from captionkit.storage import Storage
from captionkit.training.datasets import DATA_SETS, DataSet, find_data_set
from tests.corpus.test_coco import coco_folder
from tests.support.archive import jpeg

TOKENS = "".join(f"{name}.jpg#0\tA dog .\n" for name in "abc")
KAGGLE = "image,caption\n" + "".join(f"{name}.jpg,A dog .\n" for name in "abc")
LISTS = {
    "Flickr_8k.trainImages.txt": "a.jpg\n",
    "Flickr_8k.devImages.txt": "b.jpg\n",
    "Flickr_8k.testImages.txt": "c.jpg\n",
}


def write(folder: Path, **texts: str | bytes) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def pack(path: Path, **texts: str | bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)


def photos(folder: str) -> dict[str, str | bytes]:
    return {f"{folder}{name}.jpg": jpeg(number, 8) for number, name in enumerate("abc")}


def layout(kind: str, folder: Path) -> None:
    """Flickr8k's three images in one of the layouts that people have."""
    folder.mkdir()
    mac = {"__MACOSX/Flicker8k_Dataset/._a.jpg": b"resource fork", "__MACOSX/._Flickr8k.token.txt": b"fork"}
    if kind == "zips":
        pack(folder / "Flickr8k_Dataset.zip", **photos("Flicker8k_Dataset/"), **mac)
        pack(folder / "Flickr8k_text.zip", **{"readme.txt": "!", "Flickr8k.token.txt": TOKENS}, **LISTS, **mac)
    elif kind == "folders":
        write(folder, **photos("Flickr8k_Dataset/Flicker8k_Dataset/"))
        write(folder / "Flickr8k_text", **{"Flickr8k.token.txt": TOKENS}, **LISTS)
    elif kind == "both":
        layout("folders", folder / "unpacked")
        pack(folder / "Flickr8k_Dataset.zip", **photos("Flicker8k_Dataset/"))
        pack(folder / "Flickr8k_text.zip", **{"Flickr8k.token.txt": TOKENS}, **LISTS)
    elif kind == "photos packed":
        pack(folder / "Flickr8k_Dataset.zip", **photos("Flicker8k_Dataset/"))
        write(folder, **{"Flickr8k.token.txt": TOKENS}, **LISTS)
    elif kind == "kaggle":
        write(folder, **{"captions.txt": KAGGLE}, **photos("Images/"))
    else:
        pack(folder / "archive.zip", **{"captions.txt": KAGGLE}, **photos("Images/"))


@pytest.mark.parametrize("kind", ["zips", "folders", "both", "photos packed", "kaggle", "kaggle zip"])
def test_flickr8k_is_found_as_it_is_downloaded(kind: str, tmp_path: Path) -> None:
    layout(kind, tmp_path / "data")
    found = find_data_set("flickr8k", str(tmp_path / "data"), str(tmp_path / "out"), Storage())
    corpus = read_corpus(found.corpus, found.images)
    images = list(corpus)
    assert [image.key for image in images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert Storage().read(images[0].image) == jpeg(0, 8)
    assert found.has_test is not kind.startswith("kaggle")
    assert [image.split for image in images] == (["train", "val", "test"] if found.has_test else [None] * 3)
    assert not corpus.report.left_out
    # What is unpacked is captions alone, and a second time is like the first.
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert find_data_set("flickr8k", str(tmp_path / "data"), str(tmp_path / "out"), Storage()) == found


@pytest.mark.parametrize("packed", [False, True])
def test_coco_is_found_as_it_is_downloaded(packed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    coco_folder(folder)
    write(folder, **{"test2017/000000000001.jpg": jpeg(1, 8)})
    if packed:
        for name in ("annotations", "train2017", "val2017"):
            files = {f"{name}/{file.name}": file.read_bytes() for file in sorted((folder / name).iterdir())}
            called = "annotations_trainval2017" if name == "annotations" else name
            pack(folder / f"{called}.zip", **files)
            for file in (folder / name).iterdir():
                file.unlink()
    found = find_data_set("coco", str(folder), str(tmp_path / "out"), Storage())
    assert [place.rpartition("/")[2].removesuffix(".zip") for place in found.images] == ["train2017", "val2017"]
    corpus = read_corpus(found.corpus, found.images)
    assert {image.split for image in corpus} == {"train", "val"}
    assert not found.has_test


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"readme.txt": "!"}, "holds no captions of flickr8k: .* Flickr8k.token.txt; or captions.txt"),
        ({"Flickr8k.token.txt": TOKENS}, "holds captions of flickr8k and no photos"),
        ({"x.zip": "no zip"}, "x.zip: the zip file is broken"),
    ],
)
def test_what_is_missing_is_said(texts: dict[str, str], complaint: str, tmp_path: Path) -> None:
    write(tmp_path / "data", **texts)
    with pytest.raises(UsageError, match=complaint):
        find_data_set("flickr8k", str(tmp_path / "data"), str(tmp_path / "out"), Storage())


def test_a_member_that_claims_to_be_a_book_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout("zips", tmp_path / "data")
    monkeypatch.setattr("captionkit.training.datasets.MAX_TEXT", 10)
    with pytest.raises(UsageError, match=r"Flickr8k.token.txt claims 48 bytes"):
        find_data_set("flickr8k", str(tmp_path / "data"), str(tmp_path / "out"), Storage())


def test_every_data_set_says_what_it_is() -> None:
    assert str(DataSet(("a.txt",), tuple("bcdef"), True)) == "captions: a.txt; photos: b, c, d and 2 more"
    assert set(DATA_SETS) == {"coco", "flickr8k"}

"""Captions within JPEG files, read back by ExifTool and Pillow; everything else as it was."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from captionkit.export.embedding import EmbedError, embed
from captionkit.export.xmp import XmpError, fields_of
from tests.export.table import make_table, picture, run
from tests.export.test_xmp import EXIFTOOL, HARD, exif, needs_exiftool, other_fields

CAPTION = fields_of(HARD, "m")


def photo(order: bytes = b"MM", **tags: Any) -> bytes:
    """A JPEG file with EXIF, a thumbnail's directory and a maker's note in it."""
    found = Image.Exif()
    found.endian = ">" if order == b"MM" else "<"
    found[Base.Make.value] = "Maker"
    found[Base.Orientation.value] = 6
    found.get_ifd(IFD.Exif.value)[Base.MakerNote.value] = bytes(range(200))
    found.get_ifd(IFD.GPSInfo.value)[1] = "N"
    for name, value in tags.items():
        found[Base[name].value] = value
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(data, "JPEG", exif=found, icc_profile=b"profile" * 20, comment=b"c")
    return data.getvalue()


def pixels(data: bytes) -> bytes:
    return data[data.rindex(b"\xff\xdb") :]  # behind metadata, whose thumbnail has tables too


def without_description(found: dict[str, Any]) -> dict[str, Any]:
    """What ExifTool finds but for what is written; a thumbnail's place in the file moves with what is before it."""
    gone = ("IFD0:ImageDescription", "ExifTool:Warning", "IFD1:ThumbnailOffset", "XMP-x:XMPToolkit")
    return {key: value for key, value in other_fields(found).items() if key not in gone}


@needs_exiftool
@pytest.mark.parametrize("order", [b"MM", b"II"])
def test_a_caption_comes_into_a_copy_and_nothing_else_changes(tmp_path: Path, order: bytes) -> None:
    source = tmp_path / "photos/a.jpg"
    source.parent.mkdir()
    source.write_bytes(photo(order))
    tags = ["-IFD0:Artist=Ann", "-IFD0:XResolution=300", "-XMP-xmp:Rating=3", "-IPTC:City=Riga", "-GPS:GPSAltitude=7"]
    thumbnail = tmp_path / "thumb.jpg"
    thumbnail.write_bytes(picture(3))
    order_flag = ["-ExifByteOrder=" + order.decode()]
    subprocess.run(
        [str(EXIFTOOL), "-q", "-overwrite_original", *order_flag, *tags, f"-ThumbnailImage<={thumbnail}", str(source)],
        check=True, timeout=60,
    )  # fmt: skip
    before, was = source.read_bytes(), exif(source)
    table = make_table(tmp_path / "t", {str(source): HARD})
    report = run(table.uri, tmp_path / "out", "xmp", embed=True)
    assert (report.written, report.ok) == (1, True)
    copy = tmp_path / "out/a.jpg"
    found = exif(copy)
    assert found["XMP-dc:Description"] == found["IFD0:ImageDescription"] == HARD
    assert found["XMP-iptcCore:AltTextAccessibility"] == HARD
    assert found["XMP-photoshop:CaptionWriter"] == "captionkit ck-0"
    assert without_description(found) == without_description(was)
    assert len(without_description(was)) > 20
    assert (
        exif(copy, "-validate", "-Validate")["ExifTool:Validate"]
        == exif(source, "-validate", "-Validate")["ExifTool:Validate"]
    )
    for tag in ("-ThumbnailImage", "-MakerNoteUnknown", "-ICC_Profile"):
        raw = [
            subprocess.run([str(EXIFTOOL), "-b", tag, str(path)], capture_output=True, check=True, timeout=60).stdout
            for path in (source, copy)
        ]
        assert raw[0] == raw[1], tag
    assert pixels(copy.read_bytes()) == pixels(before)
    assert source.read_bytes() == before


@pytest.mark.parametrize("data", [picture(1), photo(), photo(b"II"), photo(ImageDescription="   ")])
def test_any_jpeg_takes_one_and_pillow_reads_it(data: bytes) -> None:
    made = embed(data, CAPTION)
    assert made.written[-1] == "EXIF ImageDescription"
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(made.data))
    assert after.tobytes() == before.tobytes()
    old, new = dict(before.getexif()), dict(after.getexif())
    assert new.pop(Base.ImageDescription.value).encode("latin-1").decode() == HARD  # Pillow takes EXIF for Latin-1
    old.pop(Base.ImageDescription.value, None)
    assert new == old
    for block in (IFD.Exif, IFD.GPSInfo):
        assert after.getexif().get_ifd(block.value) == before.getexif().get_ifd(block.value)
    assert before.info.get("icc_profile") == after.info.get("icc_profile")
    again = embed(made.data, CAPTION)
    assert (again.data, again.written, again.kept) == (made.data, (), ())


def test_what_describes_the_image_already_is_kept(tmp_path: Path) -> None:
    human = photo(ImageDescription="By Ann")
    made = embed(human, CAPTION)
    assert made.kept == ("EXIF ImageDescription",)
    assert made.written == ("Iptc4xmpCore:AltTextAccessibility",)
    assert Image.open(io.BytesIO(made.data)).getexif()[Base.ImageDescription.value] == "By Ann"
    changed = embed(human, fields_of("a dog", "m"), overwrite=True)
    assert Image.open(io.BytesIO(changed.data)).getexif()[Base.ImageDescription.value] == "a dog"


@needs_exiftool
def test_a_caption_in_iptcs_older_form_counts_as_a_description(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(1))
    command = [str(EXIFTOOL), "-q", "-overwrite_original", "-IPTC:Caption-Abstract=By Ann", str(path)]
    subprocess.run(command, check=True, timeout=60)
    made = embed(path.read_bytes(), CAPTION)
    assert made.kept == ("IPTC Caption-Abstract",)
    with pytest.raises(EmbedError, match="older form"):
        embed(path.read_bytes(), CAPTION, overwrite=True)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (picture(1, "PNG"), "no JPEG"),
        (b"\xff\xd8\xff", "damaged"),
        (picture(1)[:200], "damaged"),
        (b"\xff\xd8\xff\xe1\x00\x08Exif\0\0" + picture(1)[2:], "EXIF is damaged|two blocks|damaged"),
        (b"\xff\xd8\xff\xe2\x00\x06MPF\0" + picture(1)[2:], "several pictures"),
        (b"\xff\xd8\xff\xe1\x00\x12Exif\0\0II*\0\xff\xff\xff\xff" + picture(1)[2:], "damaged"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(EmbedError, match=word):
        embed(data, CAPTION)


def test_metadata_that_would_not_fit_is_refused() -> None:
    with pytest.raises(EmbedError, match="longer than a segment"):
        embed(picture(1), fields_of("word " * 20_000, "m"))
    body = b"http://ns.adobe.com/xap/1.0/\0no packet"
    broken = b"\xff\xd8\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + picture(1)[2:]
    with pytest.raises(XmpError):
        embed(broken, CAPTION)


def test_originals_and_other_files_are_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(1))
    (folder / "b.png").write_bytes(picture(2, "PNG"))
    (folder / "c.jpg").write_bytes(picture(1)[:150])
    table = make_table(tmp_path / "t", {str(folder / name): "a dog" for name in ("a.jpg", "b.png", "c.jpg")})
    report = run(table.uri, folder, "xmp", embed=True, overwrite=True)
    assert (report.written, report.errors) == (0, {"cannot be embedded": 1})
    assert "a file was there already" in report.text()
    assert "no JPEG" in report.text()
    assert (folder / "a.jpg").read_bytes() == picture(1)
    assert run(table.uri, tmp_path / "out", "xmp", embed=True, dry_run=True).written == 1
    assert not (tmp_path / "out").exists()

"""XMP sidecars, read back by ExifTool (apt: libimage-exiftool-perl)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from captionkit.export.xmp import ALT, DESCRIPTION, EXTENDED, WRITER, XmpError, fields_of, merge, texts_in
from tests.export.table import make_table, picture, run, shard

EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None, reason="exiftool is not installed: apt install libimage-exiftool-perl"
)
LONG = "word " * 60 + "end"
HARD = 'Tom & "Jerry" <b>café</b> 🐕 ]]>'


def exif(path: Path, *options: str) -> dict[str, Any]:
    """What ExifTool reads, by group and name; its warnings too."""
    assert EXIFTOOL is not None
    done = subprocess.run(
        [EXIFTOOL, "-j", "-G1", "-struct", *options, str(path)], capture_output=True, check=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def other_fields(found: dict[str, Any]) -> dict[str, Any]:
    """Without those that say something of the file, and those that captions go into."""
    ours = ("XMP-dc:Description", "XMP-iptcCore:AltTextAccessibility", "XMP-iptcCore:ExtDescrAccessibility")
    return {
        key: value
        for key, value in found.items()
        if key not in (*ours, "XMP-photoshop:CaptionWriter", "SourceFile") and not key.startswith(("System:", "File:"))
    }


@needs_exiftool
def test_a_new_sidecar_says_what_is_to_be_seen_and_that_a_machine_wrote_it(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", {"/photos/a.jpg": HARD, "/photos/deep/b.png": LONG, "/photos/c.jpg": None})
    report = run(table.uri, tmp_path / "out", "xmp")
    assert (report.written, report.left_out, report.ok) == (2, {"without a caption": 1}, True)
    short = exif(tmp_path / "out/a.jpg.xmp")
    assert short["XMP-dc:Description"] == HARD
    assert short["XMP-iptcCore:AltTextAccessibility"] == HARD
    assert short["XMP-photoshop:CaptionWriter"] == "captionkit ck-0"
    assert "XMP-iptcCore:ExtDescrAccessibility" not in short
    long = exif(tmp_path / "out/deep/b.png.xmp")
    assert long["XMP-dc:Description"] == long["XMP-iptcCore:ExtDescrAccessibility"] == LONG
    alt = long["XMP-iptcCore:AltTextAccessibility"]
    assert len(alt) <= 250
    assert LONG.startswith(alt + " ")
    assert exif(tmp_path / "out/deep/b.png.xmp", "-validate", "-Validate")["ExifTool:Validate"] == "OK"


@needs_exiftool
def test_what_a_sidecar_of_another_tool_holds_is_kept_field_by_field(tmp_path: Path) -> None:
    sidecar = tmp_path / "photos/a.jpg.xmp"
    sidecar.parent.mkdir()
    made = [
        *("-XMP-dc:Title=Harbour & sea", "-XMP-dc:Subject=boat", "-XMP-dc:Subject=sea", "-XMP-xmp:Rating=4"),
        *("-XMP-dc:Title-fr=Le port", "-XMP-photoshop:City=Rīga", "-XMP-iptcExt:PersonInImage=Ann"),
        "-XMP-exif:GPSAltitude=5",
        *("-XMP-crs:Exposure2012=0.5", "-XMP-mwg-rs:RegionList=[{Area={X=0.5,Y=0.5,W=0.1,H=0.1},Name=Ann}]"),
    ]  # fmt: skip
    subprocess.run([str(EXIFTOOL), "-q", *made, "-o", str(sidecar)], check=True, timeout=60)
    before, was = sidecar.read_bytes(), exif(sidecar)
    table = make_table(tmp_path / "t", {str(tmp_path / "photos/a.jpg"): HARD})
    assert run(table.uri, "", "xmp", dry_run=True).written == 1
    assert sidecar.read_bytes() == before
    assert run(table.uri, "", "xmp").written == 1
    found = exif(sidecar)
    assert found["XMP-dc:Description"] == HARD
    assert other_fields(found) == other_fields(was)
    assert len(other_fields(was)) > 7
    at = sidecar.read_bytes().index(b" <rdf:Description xmlns:rdf")  # nothing but a block has come in
    end = sidecar.read_bytes().index(b"</rdf:Description>", at)
    rest = sidecar.read_bytes()[:at] + sidecar.read_bytes()[end:].partition(b"\n ")[2]
    assert rest == before
    again = run(table.uri, "", "xmp")
    assert (again.written, again.left_out) == (0, {"was there already": 1})


@needs_exiftool
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_people_wrote_stays_unless_told_otherwise(tmp_path: Path, overwrite: bool) -> None:
    sidecar = tmp_path / "photos/a.jpg.xmp"
    sidecar.parent.mkdir()
    people = [
        "-XMP-dc:Description=By Ann",
        "-XMP-dc:Description-fr=Par Ann",
        "-XMP-photoshop:CaptionWriter=Ann",
        "-XMP-xmp:Rating=4",
    ]
    subprocess.run([str(EXIFTOOL), "-q", *people, "-o", str(sidecar)], check=True, timeout=60)
    was = exif(sidecar)
    table = make_table(tmp_path / "t", {str(tmp_path / "photos/a.jpg"): "a harbour"})
    report = run(table.uri, "", "xmp", overwrite=overwrite)
    found = exif(sidecar, "-a")
    assert report.written == 1  # the alternative text was free
    assert found["XMP-iptcCore:AltTextAccessibility"] == "a harbour"
    expected = ("a harbour", "captionkit ck-0") if overwrite else ("By Ann", "Ann")
    assert found["XMP-dc:Description"] == expected[0]
    assert found["XMP-photoshop:CaptionWriter"] == expected[1]
    french = {} if overwrite else {"XMP-dc:Description-fr": "Par Ann"}  # a field is replaced in all its languages
    was.pop("XMP-dc:Description-fr")
    assert other_fields(found) == other_fields(was) | french
    again = run(table.uri, "", "xmp", overwrite=overwrite)
    assert again.written == 0


RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
PS = 'xmlns:p="http://ns.adobe.com/photoshop/1.0/"'


def packet(inner: str, rdf: str = "rdf", head: str = "") -> bytes:
    spaces = RDF.replace("xmlns:rdf", f"xmlns:{rdf}")
    return f'{head}<x:xmpmeta xmlns:x="adobe:ns:meta/"><{rdf}:RDF {spaces}>{inner}</{rdf}:RDF></x:xmpmeta>'.encode()


NEW = {DESCRIPTION: "new", ALT: "new", WRITER: "captionkit m"}


@pytest.mark.parametrize(
    "before",
    [
        packet(""),
        packet(f'<rdf:Description rdf:about="" {PS} p:City="R>ga"/>'),
        packet("<!-- </rdf:RDF> --><rdf:Description/>"),
        packet('<r:Description r:about="urn:x"/>', rdf="r"),
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}/></x:xmpmeta>'.encode(),
        f'<rdf:RDF {RDF}\n a=">"></rdf:RDF>'.encode(),
        b"\xef\xbb\xbf" + packet("<rdf:Description/>", head='<?xml version="1.0" encoding="UTF-8"?>\n'),
        packet("<rdf:Description><é xmlns='u:é'>日本語</é></rdf:Description>"),
    ],
)
def test_fields_go_into_any_form_of_packet_and_nothing_else_moves(before: bytes) -> None:
    merged = merge(before, NEW)
    assert merged.written == ("dc:description", "Iptc4xmpCore:AltTextAccessibility", "photoshop:CaptionWriter")
    for name, text in NEW.items():
        assert texts_in(merged.packet, name) == [text]
    head, _, tail = merged.packet.partition(b" <rdf:Description xmlns:rdf=")
    rest = head + tail.partition(b"</rdf:Description>\n ")[2]
    assert rest == before or before.replace(b"/></x", b"></rdf:RDF></x") == rest
    assert merge(merged.packet, NEW).written == ()
    changed = merge(merged.packet, NEW | {DESCRIPTION: "other"}, overwrite=True)
    assert changed.written == ("dc:description",)
    assert texts_in(changed.packet, DESCRIPTION) == ["other"]


@pytest.mark.parametrize(
    "writer",
    [
        f'<rdf:Description {PS} a="1"\n p:CaptionWriter = \'A "x" > y\' b="2"/>',
        f"<rdf:Description {PS}><p:CaptionWriter>Ann</p:CaptionWriter></rdf:Description>",
    ],
)
def test_nobody_is_named_as_the_writer_of_what_a_machine_wrote(writer: str) -> None:
    before = packet(writer)
    kept = merge(before, NEW)
    assert kept.kept == ("dc:description",)
    assert kept.written == ("Iptc4xmpCore:AltTextAccessibility",)
    assert texts_in(kept.packet, WRITER) == texts_in(before, WRITER)
    assert texts_in(kept.packet, DESCRIPTION) == []
    changed = merge(before, NEW, overwrite=True)
    assert texts_in(changed.packet, WRITER) == ["captionkit m"]
    assert texts_in(changed.packet, DESCRIPTION) == ["new"]


def test_blank_fields_are_free(tmp_path: Path) -> None:
    blank = '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">  </rdf:li></rdf:Alt></dc:description>'
    for inner in (blank, "<dc:description/>", "<dc:description></dc:description>"):
        merged = merge(packet(f"<rdf:Description {DC}>{inner}</rdf:Description>"), NEW)
        assert texts_in(merged.packet, DESCRIPTION) == ["new"]
        assert merged.packet.count(b"<dc:description") == 1


def test_a_field_within_another_structure_is_not_the_images_own() -> None:
    part = "<rdf:Description><dc:description>of a part</dc:description></rdf:Description>"
    nested = f'<rdf:Description {DC}><q xmlns="u:">{part}</q></rdf:Description>'
    merged = merge(packet(nested), NEW, overwrite=True)
    assert b"of a part" in merged.packet
    assert texts_in(merged.packet, DESCRIPTION) == ["new"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no element found"),
        (b"not XML", "not well-formed"),
        (b"<a/>", "no rdf:RDF"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (packet("").decode().encode("utf-16"), "not in UTF-8"),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?><a/>', "ISO-8859-1"),
        (f"<a><rdf:RDF {RDF}/><rdf:RDF {RDF}/></a>".encode(), "more than one"),
        (packet("")[:-20], "no element found|unclosed"),
    ],
)
def test_what_is_no_xmp_is_left_alone(data: bytes, word: str) -> None:
    with pytest.raises(XmpError, match=word):
        merge(data, NEW)


def test_a_sidecar_that_cannot_be_read_costs_its_own_row(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.jpg.xmp").write_bytes(b"darktable was killed here")
    table = make_table(tmp_path / "t", {"/p/a.jpg": "one", "/p/b.jpg": "two"})
    report = run(table.uri, tmp_path / "out", "xmp")
    assert (report.written, report.errors, report.ok) == (1, {"unreadable XMP": 1}, False)
    assert (tmp_path / "out/a.jpg.xmp").read_bytes() == b"darktable was killed here"
    assert "a.jpg.xmp" in report.text()


def test_images_in_shards_have_sidecars_below_a_folder_and_none_beside_them(tmp_path: Path) -> None:
    tar = shard(tmp_path / "p/s.tar", {"in/a.jpg": picture(1)})
    table = make_table(tmp_path / "t", {f"{tar}#in/a.jpg": "one"})
    assert run(table.uri, tmp_path / "out", "xmp").written == 1
    assert texts_in((tmp_path / "out/s.tar/in/a.jpg.xmp").read_bytes(), DESCRIPTION) == ["one"]
    report = run(table.uri, "", "xmp")
    assert report.written == 0
    assert "give an output folder" in report.text()


def test_characters_that_xml_cannot_hold_become_spaces() -> None:
    fields = fields_of("a\x00b\x1bc\ufffe", "m")
    assert fields[DESCRIPTION] == "a b c"
    assert EXTENDED not in fields
    assert texts_in(merge(None, fields).packet, DESCRIPTION) == ["a b c"]


def test_a_caption_that_an_image_brought_bears_no_machines_mark() -> None:
    machine = merge(None, fields_of("a dog", "ck-0")).packet
    assert texts_in(machine, WRITER) == ["captionkit ck-0"]
    brought = fields_of("Ann at sea", "input")
    assert WRITER not in brought
    replaced = merge(machine, brought, overwrite=True).packet
    assert texts_in(replaced, DESCRIPTION) == ["Ann at sea"]
    assert texts_in(replaced, WRITER) == []
    assert "dc:description" in merge(machine, brought).kept

"""Addresses as strings: no storage is touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captionkit.errors import UsageError
from captionkit.schema import HAS_MEMBER
from captionkit.storage import (
    SHARD_SUFFIXES,
    Storage,
    addresses,
    expand_braces,
    is_pattern,
    join_member,
    page_of,
    split_member,
    without_page,
)
from captionkit.storage.addresses import Pattern, join, normalize


@pytest.mark.parametrize(
    ("address", "base", "member"),
    [
        ("s3://b/a.tar#x/y.jpg", "s3://b/a.tar", "x/y.jpg"),
        ("/data/a.tar.gz#x#y.jpg", "/data/a.tar.gz", "x#y.jpg"),
        ("a.TGZ#x", "a.TGZ", "x"),
        ("s3://b/t.parquet#17", "s3://b/t.parquet", "17"),
        ("s3://b/a.tar#b.tar#c", "s3://b/a.tar", "b.tar#c"),
        ("s3://b/number #1.jpg", "s3://b/number #1.jpg", None),
        ("s3://b/#/a.jpg", "s3://b/#/a.jpg", None),
        ("s3://b/a.tar", "s3://b/a.tar", None),
        ("s3://b/start#1/x.jpg", "s3://b/start#1/x.jpg", None),
        ("https://h/a.jpg#top", "https://h/a.jpg#top", None),
        ("s3://b/scan.TIF#page=3", "s3://b/scan.TIF", "page=3"),
        ("https://h/a.gif?x=1#page=12", "https://h/a.gif?x=1", "page=12"),
        ("s3://b/a.tar#x/scan.tif#page=3", "s3://b/a.tar", "x/scan.tif#page=3"),
        ("s3://b/scan.tif#page=0", "s3://b/scan.tif#page=0", None),
        ("s3://b/photo.jpg#page=3", "s3://b/photo.jpg#page=3", None),
    ],
)
def test_members_are_told_from_names_with_a_hash(address: str, base: str, member: str | None) -> None:
    assert split_member(address) == (base, member)


@pytest.mark.parametrize(
    ("address", "file", "page"),
    [
        ("/a/scan.tif#page=3", "/a/scan.tif", 3),
        ("https://h/a.gif?x=1#page=12", "https://h/a.gif?x=1", 12),
        ("s3://b/a.tar#x/scan.tif#page=3", "s3://b/a.tar#x/scan.tif", 3),
        ("/a/scan.tif", "/a/scan.tif", None),
        ("/a/scan.tif#page=x", "/a/scan.tif#page=x", None),
        ("/a/photo.jpg#page=3", "/a/photo.jpg#page=3", None),
        ("/a.tif#page=1/b.jpg", "/a.tif#page=1/b.jpg", None),
    ],
)
def test_pages_of_files_have_addresses(address: str, file: str, page: int | None) -> None:
    assert (without_page(address), page_of(address)) == (file, page)
    assert pc.match_substring_regex(pa.array([address]), HAS_MEMBER)[0].as_py() == (
        split_member(address)[1] is not None
    )


def test_a_page_is_read_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"pages")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "scan.tif", "x/scan.tif")
    for address in ("scan.tif#page=2", "a.tar#x/scan.tif#page=2"):
        assert Storage().read(f"{tmp_path}/{address}") == b"pages"
    assert Storage().stat(f"{tmp_path}/scan.tif#page=2").version == Storage().stat(f"{tmp_path}/scan.tif").version


@given(st.sampled_from([".tar", ".tar.gz", ".tgz", ".parquet", ".TAR"]), st.text(), st.text())
def test_members_round_trip(ending: str, name: str, member: str) -> None:
    base = f"s3://bucket/{name}{ending}"
    if split_member(f"{base}#{member}") == (base, member):
        assert split_member(join_member(base, member)) == (base, member)
    else:  # an archive's name inside an archive's name
        with pytest.raises(UsageError):
            join_member(base, member)


def test_only_archives_have_members() -> None:
    with pytest.raises(UsageError):
        join_member("s3://bucket/picture.jpg", "17")


def test_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    here = os.getcwd()
    assert normalize("pictures/a b.jpg") == f"{here}/pictures/a b.jpg"
    assert normalize("./pictures/../a.jpg") == f"{here}/a.jpg"
    assert normalize("~/a.jpg") == "/home/ann/a.jpg"
    assert normalize("file:///data/50%.jpg") == "/data/50%.jpg"
    assert normalize("shard.tar#../odd//name") == f"{here}/shard.tar#../odd//name"
    assert normalize("s3://bucket/a//b/../c") == "s3://bucket/a//b/../c"
    assert normalize("S3://bucket/a") == "s3://bucket/a"
    for wrong in ("", "file://", "simplecache::s3://bucket/key"):
        with pytest.raises(UsageError):
            normalize(wrong)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("a b#c?d%20é//x*.jpg")
def test_normalizing_twice_changes_nothing(name: str) -> None:
    for address in (f"s3://bucket/{name}", f"/data/{name}", f"https://host/{name}"):
        assert normalize(normalize(address)) == normalize(address)


_PIECES = ["s3://", "S3://", "https://", "file:///", "local://", "::", "/", "..", "#", "?x", "%20", "a.tar", ".jpg"]


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), min_size=1, max_size=6).map("".join))
def test_the_short_way_is_the_long_one(address: str) -> None:
    """What is taken for normal at a look comes out unchanged without that look, too."""
    if addresses._NORMAL.fullmatch(address):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(addresses, "_NORMAL", re.compile("(?!)"))
            assert normalize(address) == address


def test_join() -> None:
    assert join("s3://bucket", "a", "b.jpg") == "s3://bucket/a/b.jpg"
    assert join("s3://bucket/", "a/", "/b.jpg") == "s3://bucket/a/b.jpg"
    assert join("/", "a") == "/a"
    assert join("/data", "", "a//b") == "/data/a//b"
    assert Storage().join("memory://", "a") == "memory://a"


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("s3://b/*.jpg", ["s3://b/a.jpg", "s3://b/a b.jpg"], ["s3://b/x/a.jpg", "s3://b/.a.jpg", "s3://b/a.jpeg"]),
        ("s3://b/**/*.jpg", ["s3://b/a.jpg", "s3://b/x/y/a.jpg", "s3://b/x//a.jpg"], ["s3://b/.x/a.jpg"]),
        ("s3://b/**", ["s3://b/a", "s3://b/x/y/a.jpg"], ["s3://b/x/.a", "s3://c/a"]),
        ("s3://b/2024-??/a[0-9].jpg", ["s3://b/2024-11/a7.jpg"], ["s3://b/2024-1/a7.jpg", "s3://b/2024-11/ab.jpg"]),
        ("s3://b/[!x]*.jpg", ["s3://b/a.jpg"], ["s3://b/xa.jpg"]),
        ("/d/.hidden/*.jpg", ["/d/.hidden/a.jpg"], ["/d/seen/a.jpg"]),
        ("/d/.*/a.jpg", ["/d/.x/a.jpg"], ["/d/x/a.jpg"]),
        ("/d/a[*].jpg", ["/d/a*.jpg"], ["/d/ab.jpg"]),
        ("/d/a[]b].jpg", ["/d/a].jpg", "/d/ab.jpg"], ["/d/a[.jpg"]),
        ("/d/a[b.jpg", ["/d/a[b.jpg"], ["/d/ab.jpg"]),
        ("/d/(1+1)*.jpg", ["/d/(1+1).jpg", "/d/(1+1)=2.jpg"], ["/d/11.jpg"]),
        ("/d/a\n*", ["/d/a\nb"], ["/d/a"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], does_not: list[str]) -> None:
    compiled = Pattern(pattern)
    assert is_pattern(pattern)
    assert all(compiled.matches(address) and address.startswith(compiled.literal) for address in fits)
    assert not any(compiled.matches(address) for address in does_not)


@given(st.text(alphabet="ab*?[]!^-./\\&|~", max_size=12), st.text(alphabet="ab./-", max_size=12))
def test_any_pattern_compiles_and_never_walks_past_a_match(pattern: str, name: str) -> None:
    try:
        compiled = Pattern(f"/root/{pattern}")
    except UsageError:
        return
    address = f"/root/{name}"
    if compiled.matches(address):
        assert address.startswith(compiled.literal)
        folder = address
        while (folder := os.path.dirname(folder)) not in ("/root", "/"):
            assert compiled.may_hold(folder)


def test_patterns_walk_only_where_matches_can_be() -> None:
    pattern = Pattern("/data/20*/*.jpg")
    assert pattern.may_hold("/data/2024")
    assert not pattern.may_hold("/data/1999")
    assert not pattern.may_hold("/data/2024/raw")
    assert Pattern("/data/20*/**/*.jpg").may_hold("/data/2024/raw/x")
    assert not Pattern("/data/20*/**/*.jpg").may_hold("/data/1999/raw/x")


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("s3://bucket/a/", "s3://bucket/a"),
        ("s3://bucket/a//", "s3://bucket/a"),
        ("s3://bucket/", "s3://bucket"),
        ("gs://bucket/a b/", "gs://bucket/a b"),
        ("https://host/a/", "https://host/a/"),  # there the slash is part of the address
        ("file:///data/a%20b%C3%A9.jpg", "/data/a bé.jpg"),
        ("file://localhost/data/a.jpg", "/data/a.jpg"),
        ("file:/data/a.jpg", "/data/a.jpg"),
    ],
)
def test_a_folder_has_one_spelling(address: str, normal: str) -> None:
    assert normalize(address) == normal
    assert normalize(normal) == normal


def test_file_urls_of_pathlib_and_names_that_look_like_them(tmp_path: Path) -> None:
    for name in ("a b é%41.jpg", "100%25.jpg", "#1?.jpg"):
        assert normalize((tmp_path / name).as_uri()) == str(tmp_path / name)
    (tmp_path / "a%20b.jpg").touch()
    assert normalize(f"file://{tmp_path}/a%20b.jpg") == str(tmp_path / "a%20b.jpg")


@pytest.mark.parametrize(
    ("braces", "expanded"),
    [
        ("{0..3}.tar", ["0.tar", "1.tar", "2.tar", "3.tar"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("s3://b/{a,b}-{1..2}.tar", ["s3://b/a-1.tar", "s3://b/a-2.tar", "s3://b/b-1.tar", "s3://b/b-2.tar"]),
        ("{a,}b", ["ab", "b"]),
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("{1..x}", ["{1..x}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(braces: str, expanded: list[str]) -> None:
    assert list(expand_braces(braces)) == expanded
    bash = shutil.which("bash")
    if bash and "*" not in braces:
        script = f"printf '%s\\n' {braces}"
        done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == expanded


def test_braces_without_end_are_refused() -> None:
    with pytest.raises(UsageError, match="more than"):
        next(expand_braces("{0..999999999999}.tar"))


def test_members_behind_a_query_are_found_again() -> None:
    shard = "https://host/00000.tar?download=true"
    assert split_member(join_member(shard, "a/1.jpg")) == (shard, "a/1.jpg")
    for suffix in (*SHARD_SUFFIXES, ".parquet"):
        assert split_member(join_member(f"s3://b/x{suffix}", "1")) == (f"s3://b/x{suffix}", "1")

"""Addresses as strings: no storage is touched."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captionkit.storage import Storage, UsageError, is_pattern, join_member, split_member
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
    ],
)
def test_members_are_told_from_names_with_a_hash(address: str, base: str, member: str | None) -> None:
    assert split_member(address) == (base, member)


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

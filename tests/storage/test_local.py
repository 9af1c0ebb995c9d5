"""The local disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from captionkit.errors import UsageError
from captionkit.storage import Entries, Entry, Storage, StorageError
from tests.storage.disk import small_disk

STORAGE = Storage()


def names(found: object, root: Path) -> list[str]:
    return sorted(os.path.relpath(entry.uri, root) for entry in found)  # type: ignore[attr-defined]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("a.jpg", "2023/b.jpg", "2024/c.jpg", "2024/deep/er/d.png", "2024/odd #1 ?*[x] é.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name in (".hidden.jpg", "2024/._c.jpg", ".git/x.jpg"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"hidden")
    return root


def test_listing_gives_what_reads(tree: Path) -> None:
    found = list(STORAGE.list(str(tree)))
    assert names(found, tree) == [
        "2023/b.jpg",
        "2024/c.jpg",
        "2024/deep/er/d.png",
        "2024/odd #1 ?*[x] é.jpg",
        "a.jpg",
    ]
    for entry in found:
        data = STORAGE.read(entry.uri)
        assert data.decode() == os.path.relpath(entry.uri, tree)
        assert entry.size == len(data)
        assert STORAGE.stat(entry.uri) == entry
        with STORAGE.open(entry.uri) as file:
            assert file.read(3) == data[:3]
            file.seek(0)
            assert file.read() == data


def test_addresses_may_be_relative_or_urls(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    everything = list(STORAGE.list(str(tree)))
    for spelled in (".", "../pictures", f"file://{tree}", f"{tree}/", f"{tree}//"):
        assert sorted(entry.uri for entry in STORAGE.list(spelled)) == sorted(e.uri for e in everything)
    assert STORAGE.read("a.jpg") == b"a.jpg"


def test_listing_one_file_or_nothing(tree: Path) -> None:
    assert names(STORAGE.list(str(tree / "a.jpg")), tree) == ["a.jpg"]
    assert names(STORAGE.list(str(tree / ".hidden.jpg")), tree) == [".hidden.jpg"]  # asked for by name
    assert names(STORAGE.list(str(tree / ".git")), tree) == [".git/x.jpg"]
    (tree / "empty").mkdir()
    assert list(STORAGE.list(str(tree / "empty"))) == []
    for missing in (tree / "nowhere", f"{tree}/a.jpg/", tree / "*.jpg"):
        with pytest.raises(StorageError) as caught:
            list(STORAGE.list(str(missing)))
        assert caught.value.kind == "not_found"


def test_links_are_followed_and_loops_end(tree: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "e.jpg").write_bytes(b"e")
    (tree / "linked").symlink_to(elsewhere)
    (tree / "link.jpg").symlink_to(tree / "a.jpg")
    (tree / "2024" / "up").symlink_to(tree)
    (tree / "self").symlink_to(tree / "self")
    (elsewhere / "back").symlink_to(tree / "2023")
    found = {entry.uri.removeprefix(f"{tree}/"): entry for entry in STORAGE.list(str(tree))}
    assert {"linked/e.jpg", "link.jpg", "linked/back/b.jpg"} <= set(found)
    assert not any("up/" in name for name in found)
    assert (found["self"].size, found["self"].version) == (None, "")
    with pytest.raises(StorageError) as caught:
        STORAGE.read(found["self"].uri)
    assert caught.value.kind in ("not_found", "read_error")


def test_pipes_and_folders_are_not_read(tree: Path) -> None:
    os.mkfifo(tree / "pipe.jpg")
    assert "pipe.jpg" not in names(STORAGE.list(str(tree)), tree)
    for odd in (tree / "pipe.jpg", tree / "2024"):
        with pytest.raises(StorageError) as caught:
            STORAGE.read(str(odd))
        assert caught.value.kind == "read_error"
    assert not STORAGE.exists(str(tree / "2024"))
    assert STORAGE.is_folder(str(tree / "2024"))


def test_a_folder_that_cannot_be_read_fails_the_listing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("/2024"):
            raise PermissionError(13, "Permission denied", path)  # root, as whom CI runs, may read everything
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StorageError) as caught:
        list(STORAGE.list(str(tree)))
    assert caught.value.kind == "permission"


def test_glob(tree: Path) -> None:
    assert names(STORAGE.glob(f"{tree}/*.jpg"), tree) == ["a.jpg"]
    assert names(STORAGE.glob(f"{tree}/20*/*.jpg"), tree) == [
        "2023/b.jpg",
        "2024/c.jpg",
        "2024/odd #1 ?*[x] é.jpg",
    ]
    assert names(STORAGE.glob(f"{tree}/**/*.png"), tree) == ["2024/deep/er/d.png"]
    assert names(STORAGE.glob(f"{tree}/**"), tree) == names(STORAGE.list(str(tree)), tree)
    assert names(STORAGE.glob(f"{tree}/.git/*"), tree) == [".git/x.jpg"]
    assert names(STORAGE.glob(f"{tree}/a.jpg"), tree) == ["a.jpg"]
    assert names(STORAGE.glob(f"{tree}/nowhere/*"), tree) == []


def test_glob_does_not_walk_where_nothing_can_be(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = []
    scandir = os.scandir

    def watched(path: str) -> object:
        walked.append(os.path.relpath(path, tree))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    list(STORAGE.glob(f"{tree}/2024/*.jpg"))
    assert walked == ["2024"]
    walked.clear()
    list(STORAGE.glob(f"{tree}/20*/*.jpg"))
    assert sorted(walked) == [".", "2023", "2024"]


def test_versions_follow_the_content(tree: Path) -> None:
    path = tree / "a.jpg"
    before = STORAGE.stat(str(path)).version
    assert STORAGE.stat(str(path)).version == before
    time.sleep(0.02)
    path.write_bytes(b"A.jpg")
    assert STORAGE.stat(str(path)).version != before


def test_writing_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "deep" / "out.bin"
    STORAGE.write(str(target), b"first")
    assert target.read_bytes() == b"first"
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()

    def power_cut(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(StorageError) as caught:
        STORAGE.write(str(target), b"second")
    assert (caught.value.kind, caught.value.fatal) == ("write_error", True)
    assert "full" in str(caught.value)
    assert target.read_bytes() == b"first"
    assert os.listdir(target.parent) == ["out.bin"]
    monkeypatch.undo()
    STORAGE.delete(str(target))
    STORAGE.delete(str(target))
    assert not STORAGE.exists(str(target))
    with pytest.raises(StorageError) as caught:
        STORAGE.write(f"{__file__}/x", b"")
    assert str(caught.value).startswith(__file__)


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)


def fill(small_disk: Path) -> None:
    STORAGE.write(str(small_disk / "a"), bytes(40_000))
    with pytest.raises(StorageError, match="the disk is full") as caught:
        STORAGE.write(str(small_disk / "a"), bytes(80_000))
    assert (caught.value.kind, caught.value.fatal) == ("write_error", True)
    assert os.listdir(small_disk) == ["a"]  # nothing torn, nothing beside it
    assert (small_disk / "a").read_bytes() == bytes(40_000)
    (small_disk / "b").write_bytes(bytes(24_576))
    with pytest.raises(StorageError, match=r"cannot write: .*the disk is full"):
        STORAGE.check_writable(str(small_disk))
    assert sorted(os.listdir(small_disk)) == ["a", "b"]


def test_a_file_larger_than_is_allowed(tmp_path: Path) -> None:
    code = f"""
import resource
from captionkit.storage import Storage, StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    Storage().write({str(tmp_path / "a")!r}, bytes(20_000))
except StorageError as error:
    print(error.kind, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.match(r"write_error .*may not become so large; see `ulimit -f`", done.stdout), done.stderr
    assert os.listdir(tmp_path) == []


def test_checking_for_writing(tmp_path: Path) -> None:
    STORAGE.check_writable(str(tmp_path / "new" / "out"))
    assert os.listdir(tmp_path / "new" / "out") == []
    with pytest.raises(StorageError, match="cannot write") as caught:
        STORAGE.check_writable("/proc/captionkit/out")
    assert caught.value.fatal
    with pytest.raises(StorageError, match="cannot write"):
        STORAGE.check_writable(f"{__file__}/out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_unfinished_write_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        seen.extend(STORAGE.list(str(tmp_path)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    STORAGE.write(str(tmp_path / "x"), b"x")
    assert seen == []


def test_archives_only_read(tmp_path: Path) -> None:
    for action in (STORAGE.delete, STORAGE.open, lambda uri: STORAGE.write(uri, b"")):
        with pytest.raises(UsageError):
            action(str(tmp_path / "a.tar#x"))


def test_a_large_folder_lists_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captionkit.storage.local.MOST", 100)
    for number in range(2_000):
        (tmp_path / f"{number}.jpg").touch()
    tracemalloc.start()
    count = sum(1 for _ in STORAGE.list(str(tmp_path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2_000
    assert peak < 100_000


def test_a_name_that_is_not_utf8_is_read_by_its_escaped_address(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"latin")
    [entry] = STORAGE.list(str(tmp_path))
    assert entry.uri == f"{tmp_path}/caf\\udce9.jpg"
    assert STORAGE.read(entry.uri) == b"latin"
    assert STORAGE.stat(entry.uri) == entry
    with STORAGE.open(entry.uri) as file:
        assert file.read() == b"latin"
    (tmp_path / "caf\\udce9.jpg").write_bytes(b"the very name")
    assert STORAGE.read(entry.uri) == b"the very name"


def test_a_listing_in_batches_is_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captionkit.storage.local.MOST", 32)
    for number in range(100):
        file = tmp_path / f"{number % 7}" / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * number)
    (tmp_path / "nothing.jpg").symlink_to("gone")
    batches = list(STORAGE.list_batches(str(tmp_path)))
    assert [len(entries.uris) for entries in batches if isinstance(entries, Entries)] == [16, 32, 32, 21]
    entries = [entry for batch in batches if isinstance(batch, Entries) for entry in batch.each()]
    assert entries == list(STORAGE.list(str(tmp_path)))
    [broken] = [entry for entry in entries if not entry.version]
    assert broken == Entry(str(tmp_path / "nothing.jpg"), None, "")
    assert all(STORAGE.stat(entry.uri) == entry for entry in entries if entry != broken)

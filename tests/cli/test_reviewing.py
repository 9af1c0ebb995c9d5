"""`captionkit review` and `captionkit gallery --serve`, as they are typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from captionkit.cli import OK, USAGE, main
from captionkit.storage import Storage
from captionkit.table.reviews import Reviews
from tests.export.table import make_table, picture


@contextmanager
def served(*args: str) -> Iterator[str]:
    """The address that a command serves; it is ended by SIGTERM, as a supervisor would."""
    command = [sys.executable, "-m", "captionkit", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        yield address
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == OK, said
        assert "ended" in said


def post(address: str, row: int, decision: str) -> None:
    body = json.dumps({"row": row, "decision": decision}).encode()
    request = urllib.request.Request(f"{address}decisions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_a_table_in_object_storage_is_reviewed_and_exported(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage()
    uris = [f"s3://{bucket}/photos/{number}.jpg" for number in range(3)]
    for number, uri in enumerate(uris):
        storage.write(uri, picture(number))
    local = make_table(tmp_path / "t", dict.fromkeys(uris, "a dog"))
    table = f"s3://{bucket}/captions"
    storage.write(f"{table}/captions-r-00000.parquet", storage.read(local.files[0].uri))
    with served("review", table, "--reviewer", "ada") as address:
        with urllib.request.urlopen(f"{address}picture/1", timeout=60) as answer:
            assert answer.headers["Content-Type"] == "image/webp"
        post(address, 1, "approved")
        post(address, 2, "rejected")
        assert len(Reviews(f"{table}-reviews", storage)) == 2
        assert main(["review", table, "--reviewer", "bob"]) == USAGE
        assert "review-" in capsys.readouterr().err
    out = str(tmp_path / "out.csv")
    assert main(["export", table, out, "--only", "reviewed", "--columns", "stem,caption"]) == OK
    assert Path(out).read_text() == "stem,caption\n1,a dog\n"
    assert main(["review", f"s3://{bucket}/", "--order", "random"]) == USAGE
    assert "--reviews" in capsys.readouterr().err


def test_a_gallery_is_served_for_looking_only(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    table = make_table(tmp_path / "t", {str(tmp_path / "a.jpg"): "a dog"}).uri
    other = make_table(tmp_path / "o", {str(tmp_path / "a.jpg"): "a cat"}).uri
    with served("gallery", table, "--serve", "--against", other) as address:
        with urllib.request.urlopen(f"{address}facts", timeout=60) as answer:
            facts = json.load(answer)
        assert (facts["rows"], facts["editing"], facts["against"]) == (1, False, True)
    assert not (tmp_path / "t-reviews").exists()


def test_a_page_that_stands_for_itself_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(tmp_path / "t", {"/p/a.jpg": "a dog", "/p/b.jpg": "a cat"}).uri
    page = tmp_path / "page.html"
    assert main(["review", table, "--output", str(page), "--where", "caption like '%cat'"]) == OK
    assert "a cat" in page.read_text("utf-8")
    assert "a dog" not in page.read_text("utf-8")
    assert f"page: {page}, 1 row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["review", "TABLE", "--where", "nothing = 1"], "there is no column nothing"),
        (["review", "nowhere/"], "holds no caption table"),
        (["gallery", "TABLE", "--against", "TABLE"], "--against goes with --serve"),
    ],
)
def test_what_cannot_be_served_is_wrong_usage_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = make_table(tmp_path / "t", {"/p/a.jpg": "a dog"}).uri
    assert main([table if arg == "TABLE" else arg for arg in args]) == USAGE
    assert word in capsys.readouterr().err
    assert not (tmp_path / "nowhere-reviews").exists()

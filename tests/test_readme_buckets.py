"""Every command of the documentation that captions from a bucket or plans for one, as it is spelled, on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.cli import OK, main
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.support.servers import S3Server
from tests.test_readme import PAGES, ROOT, _commands, _shell_lines

IMAGES = 3
BUCKETS = ("archive", "archive-captions", "models")


def commands() -> Iterator[object]:
    for page in PAGES:
        for line in _shell_lines(page.read_text("utf-8")):
            for words in _commands(line):
                job = words[words.index("--") + 1 :] if words[:3] == ["ray", "job", "submit"] else words
                if not any("s3://" in word for word in job):
                    continue
                args = ["caption", *job[2:]] if job[:2] == ["python", "jobs/caption.py"] else job[1:]
                if args[0] in ("caption", "plan"):  # a training of COCO is not to be had here
                    marks = () if page.name == "README.md" else (pytest.mark.slow,)
                    yield pytest.param(args, id=f"{page.relative_to(ROOT)}-{args[0]}", marks=marks)


@pytest.fixture
def archive(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The buckets and folders that the documentation speaks of, with three images and a captioner in them."""
    client, storage = s3.client(), Storage()
    for name in BUCKETS:
        client.create_bucket(Bucket=name)
    monkeypatch.chdir(tmp_path)
    for number in range(IMAGES):
        picture = draw(random_scene(number))
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
        storage.write(f"s3://archive/2014/{number}.png", path.read_bytes())
    Captioner.load().save("s3://models/flickr8k")
    yield
    for name in BUCKETS:
        for entry in list(storage.list(f"s3://{name}")):
            storage.delete(entry.uri)
        client.delete_bucket(Bucket=name)


@pytest.mark.parametrize("args", list(commands()))
def test_a_command_works_as_it_is_spelled(args: list[str], archive: None, ray_cluster: None) -> None:
    if "--gpus-per-actor" in args:
        args = [*args, "--gpus-per-actor", "0"]  # this machine may have none
    assert main(args) == OK
    if args[0] != "caption":
        return
    output = args[args.index("--output") + 1]

    def rows() -> list[str]:
        table = CaptionTable(output, Storage())
        return [uri for _, batch in table.batches(["uri"]) for uri in batch.column(0).to_pylist()]

    assert len(rows()) == len(set(rows())) == IMAGES
    assert not [uri for uri in rows() if "//" in uri.partition("://")[2]]
    assert main(args) == OK  # again: what is there already is found
    assert len(rows()) == IMAGES
    assert main(["check", output]) == OK
    assert main(["status", output]) == OK
    assert main(["gallery", output, "--page", "again.html"]) == OK
    assert Path("again.html").stat().st_size > 0


def test_there_are_commands_to_run() -> None:
    assert len(list(commands())) >= 4

"""Every command of the documentation that names a bucket, as it is spelled, on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.cli import OK, main
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.corpus.test_coco import coco_folder
from tests.inputs.test_inventory import publish
from tests.support.servers import S3Server
from tests.test_readme import PAGES, ROOT, _commands, _shell_lines

IMAGES = 3
BUCKETS = ("archive", "archive-captions", "captions", "models", "bucket", "inventories")
INVENTORIES = ("daily/2026-11-30T01-00Z", "weekly/2026-11-29T01-00Z")
SMALLER = [
    # Trained weights of ResNet-101 are a download, and three dozen words come too seldom in a dozen images.
    *("--encoder", "tiny_resnet", "--encoder-weights", "none", "--image-size", "64", "--grid", "2", "--min-count", "1"),
    # Hours otherwise. A batch must not be larger than the corpus, nor smaller than the number of workers.
    *("--decoder-options", "embed_size", "8", "hidden_size", "8", "attention_size", "8", "--epochs", "1"),
    *("--batch-size", "10", "--scst-epochs", "1", "--scst-batch", "2"),
]
"""What a training of the documentation is given besides: of an option given twice the last counts."""


def commands() -> Iterator[object]:
    for page in PAGES:
        for line in _shell_lines(page.read_text("utf-8")):
            for words in _commands(line):
                job = words[words.index("--") + 1 :] if words[:3] == ["ray", "job", "submit"] else words
                if not any("s3://" in word for word in job):
                    continue
                args = [Path(job[1]).stem, *job[2:]] if job[0] == "python" else job[1:]
                marks = () if page.name == "README.md" else (pytest.mark.slow,)
                yield pytest.param(args, id=f"{page.relative_to(ROOT)}-{args[0]}", marks=marks)


@pytest.fixture
def archive(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The buckets and folders that the documentation speaks of: three images and inventories of them, a small COCO, a
    captioner."""
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
    listed = [{"bucket": "archive", "key": f"2014/{n}.png", "size": 1, "e_tag": f"{n:032x}"} for n in range(IMAGES)]
    manifest = storage.read(publish("inventories", "CSV", listed, sourceBucket="archive"))
    for name in INVENTORIES:
        storage.write(f"s3://inventories/archive/{name}/manifest.json", manifest)
    Captioner.load().save("s3://models/flickr8k")
    coco_folder(tmp_path / "coco")
    for path in (tmp_path / "coco").rglob("*"):
        if path.is_file():
            storage.write(f"s3://bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    yield
    for name in BUCKETS:
        for entry in client.list_objects_v2(Bucket=name).get("Contents", ()):  # hidden ones too
            client.delete_object(Bucket=name, Key=entry["Key"])
        client.delete_bucket(Bucket=name)


def of(*names: str) -> list[object]:
    return [command for command in commands() if command.values[0][0] in names]  # type: ignore[attr-defined]


@pytest.mark.parametrize("args", of("train"))
def test_a_training_works_as_it_is_spelled(args: list[str], archive: None, ray_cluster: None) -> None:
    args = [*args, *SMALLER]
    if "--workers" in args:
        args += ["--workers", "2"]  # the tests' Ray has two CPUs
    assert main(args) == OK
    output = args[args.index("--output") + 1]
    assert "kept, of " in Storage().read(f"{output}/corpus.txt").decode()
    assert Captioner.load(f"{output}/bundle").fingerprint
    features = list(Storage().list(args[args.index("--cache") + 1]))
    assert features
    assert not [entry.uri for entry in features if "//" in entry.uri.partition("://")[2]]
    assert main(args) == OK  # again: there is nothing left to do


@pytest.mark.parametrize("args", of("caption", "plan"))
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

    captioned = len(rows())
    assert captioned == len(set(rows()))
    assert captioned == IMAGES or "--share" in args  # which may have none of three
    assert not [uri for uri in rows() if "//" in uri.partition("://")[2]]
    assert main(args) == OK  # again: what is there already is found
    assert len(rows()) == captioned
    if "--share" in args:
        return
    assert main(["check", output]) == OK
    assert main(["status", output]) == OK
    assert main(["gallery", output, "--page", "again.html"]) == OK
    assert Path("again.html").stat().st_size > 0


@pytest.mark.parametrize("args", of("check", "compact"))
def test_what_comes_afterwards_works_as_it_is_spelled(args: list[str], archive: None, ray_cluster: None) -> None:
    assert main(["caption", "--input", "s3://archive/", "--output", args[1]]) == OK
    assert main(args) == OK


def test_there_are_commands_to_run() -> None:
    assert len(of("caption", "plan")) >= 4
    assert len(of("train")) >= 2
    assert len(of("train", "caption", "plan", "check", "compact")) == len(list(commands()))

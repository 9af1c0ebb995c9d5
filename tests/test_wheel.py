"""The package as users get it: a wheel, installed into a fresh environment and used from outside the clone."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage
from tests.support.servers import S3Server
from tests.test_readme import ROOT, commands_of

SOURCES = ["captionkit", "pyproject.toml", "README.md", "LICENSE"]
PAGES = ["README.md", "docs/index.md", "docs/captioning.md"]

NEEDS = {
    "make": "a clone",
    "pip": "a clone",
    "ray": "a cluster",
    "python jobs/train.py": "a clone and a cluster",
    "captionkit train": "a corpus and an encoder's weights",
    "captionkit attention": "a captioner that looks at places",
    "captionkit plan": "the archive's bucket",
}
"""Commands that are not run here, by how they begin, and what they need. All others are."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git knows, so that nothing is left behind in the clone."""
    folder = tmp_path_factory.mktemp("source")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *alone, "--wheel-dir", "dist", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what the wheel needs is that of the tests' own environment."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    [site] = home.glob("lib/python*/site-packages")
    # After pip, which would else take the tests' own captionkit for the one to replace.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


@pytest.fixture
def outside(tmp_path: Path, s3: S3Server) -> Iterator[Path]:
    """A folder with the inputs and captioners that the documentation speaks of."""
    s3.client().create_bucket(Bucket="models")
    Captioner.load().save("s3://models/flickr8k")
    Captioner.load().save(str(tmp_path / "flickr8k-captioner" / "bundle"))
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        draw(random_scene(seed)).save(tmp_path / "photos" / f"{seed}.png")
    yield tmp_path
    storage = Storage()
    for entry in list(storage.list("s3://models")):
        storage.delete(entry.uri)
    s3.client().delete_bucket(Bucket="models")


def run(home: Path, folder: Path, *command: str) -> str:
    """What a command of the fresh environment prints. No path to the clone is left to it."""
    hidden = {"PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["PATH"] = f"{home / 'bin'}:{env['PATH']}"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def test_all_that_the_package_needs_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    kept = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "captionkit").rglob("*")
        if file.is_file() and file.suffix not in (".pyc", ".pyi") and "__pycache__" not in file.parts
    ]
    assert [name for name in kept if name not in names] == []
    assert "captionkit/py.typed" in names
    assert "captionkit/assets/default/weights.safetensors" in names
    assert not [name for name in names if not name.startswith("captionkit")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_commands_work_from_outside_the_clone(page: str, installed: Path, outside: Path) -> None:
    assert str(ROOT) not in run(installed, outside, "python", "-c", "import captionkit; print(captionkit.__file__)")
    commands = [words for words in commands_of(ROOT / page) if not any(begins(words, with_) for with_ in NEEDS)]
    assert commands
    for words in dict.fromkeys(map(tuple, commands)):
        run(installed, outside, *words)
    if any(words[:2] == ["captionkit", "caption"] and "--output" in words for words in commands):
        assert (outside / "captions.html").stat().st_size > 0


def begins(words: list[str], with_: str) -> bool:
    return words[: len(with_.split())] == with_.split()


def public_names() -> dict[str, list[str]]:
    """The names that each package lists in its `__all__`."""
    found = {}
    for file in (ROOT / "captionkit").rglob("__init__.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[".".join(file.parent.relative_to(ROOT).parts)] = list(ast.literal_eval(node.value))
    return found


CONSUMER = """
from captionkit import Caption, Captioner, SearchOptions
from captionkit.storage import Storage


def best(address: str) -> list[tuple[str | None, float | None]]:
    captions: list[Caption] = Captioner.load(address).caption(
        [entry.uri for entry in Storage().list("photos/")], SearchOptions(beam=5)
    )
    return [(caption.text, caption.score) for caption in captions]
"""
WRONG = """
from captionkit import Captioner

number: int = Captioner.load().caption(["a.jpg"])
"""


@pytest.fixture(scope="module")
def consumer(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two programs of users: one that imports every public name, and one with a mistake."""
    folder = tmp_path_factory.mktemp("consumer")
    imports = [
        f"from {package} import {name} as {name}_{number}"
        for number, (package, names) in enumerate(sorted(public_names().items()))
        for name in names
    ]
    assert imports
    (folder / "right.py").write_text("\n".join(imports) + CONSUMER)
    (folder / "wrong.py").write_text(WRONG)
    return folder


@pytest.mark.slow
def test_types_are_seen_by_mypy(installed: Path, consumer: Path) -> None:
    python = str(installed / "bin" / "python")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=consumer, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.partition(":")[0] for line in errors] == ["wrong.py"], done.stdout + done.stderr
    assert "Incompatible types in assignment" in errors[0]


@pytest.mark.slow
def test_types_are_seen_by_pyright(installed: Path, consumer: Path) -> None:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(installed / "bin" / "python")]
    done = subprocess.run([*command, "."], cwd=consumer, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 2
    assert [Path(fault["file"]).name for fault in report["generalDiagnostics"]] == ["wrong.py"], done.stdout

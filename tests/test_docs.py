"""The documentation as a site: it builds with no broken link, and its reference has a page for every package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_readme import PAGES, ROOT


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, in another folder."""
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip


def settings() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8")))


def pages_in(nav: object) -> list[str]:
    """The pages that a navigation names, however deep."""
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    assert not isinstance(children, str)
    return [page for child in children for page in pages_in(child)]  # type: ignore[attr-defined]


def test_the_site_builds_and_has_no_broken_link(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "captionkit").symlink_to(ROOT / "captionkit")
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout
    assert 'id="captionkit.Captioner.load"' in (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        name = place.parent if place.name == "index" else place
        assert (tmp_path / "site" / name / "index.html").is_file(), page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a page](none.md)", "page does not exist"),
        ("[a heading](index.md#none)", "anchor does not exist"),
        ("[a name][captionkit.nothing]", "unresolved autoref"),
        ("::: captionkit.nothing", "captionkit.nothing could not be found"),
    ],
)
def test_a_broken_page_breaks_the_build(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n{text}\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**settings(), "nav": ["index.md"]}))
    done = build(tmp_path)
    assert done.returncode != 0
    assert complaint in re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


def test_every_page_stands_in_the_navigation_once() -> None:
    listed = pages_in(settings()["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_the_reference_has_a_page_for_every_package() -> None:
    """A new package wants a page `docs/api/NAME.md` like its neighbours, and a line in mkdocs.yml."""
    folders = [file.parent for file in (ROOT / "captionkit").rglob("__init__.py")]
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert named == packages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_heading_finds_it(page: Path) -> None:
    """On the repository's pages, which are no part of the site, too."""
    for target, heading in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", page.read_text("utf-8")):
        there = (page.parent / target).read_text("utf-8") if target else page.read_text("utf-8")
        assert heading in map(slug, re.findall(r"^#+ (.+)$", there, re.MULTILINE)), f"{target}#{heading}"


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

"""Every command, path and link that the documentation names is there, so that what readers type works."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from captionkit.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

PROGRAMS = {"cd", "export", "git", "mkdir", "mypy", "pip", "pytest", "ray", "ruff", "lint-imports"}
"""Programs of others that the documentation may use, and whose arguments are theirs to check."""

MODULES = {"pip", "pytest", "venv"}
"""The same, as `python -m` knows them."""

MADE_HERE = {"build", "demo", "dist"}
"""Folders that commands make and git ignores: there or not, they are nothing to rely on."""

_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Where a help defines a flag rather than speaks of it: at the start of a line or box, or after another flag.
_DEFINED = re.compile(r"(?:^\s*|│ *|-\w, |, |\[)(--[a-z][a-z0-9-]*)", re.MULTILINE)


def complaints(text: str, folder: Path = ROOT) -> list[str]:
    """What a page of Markdown in `folder` names and the repository lacks."""
    found: list[str] = []
    for line in _shell_lines(text):
        for command in _commands(line):
            found += [f"{line}: {wrong}" for wrong in _wrong(command)]
    prose = _FENCE.sub("", text)
    for match in _INLINE.finditer(prose):
        code = " ".join(match.group(1).split())
        if code.startswith(("captionkit ", "make ")):
            found += [f"{code}: {wrong}" for command in _commands(code) for wrong in _wrong(command)]
        elif _is_repository_path(code) and not _exists(code):
            found.append(f"{code}: no such path")
    for target in _LINK.findall(_INLINE.sub("", prose)):
        if "://" not in target and not target.startswith("mailto:") and not (folder / target).exists():
            found.append(f"{target}: the link leads nowhere")
    return found


def commands_of(page: Path) -> list[list[str]]:
    """The commands that a page gives its readers: in shell blocks, and `captionkit COMMAND …` in running text."""
    text = page.read_text("utf-8")
    inline = [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text))]
    lines = [*_shell_lines(text), *(code for code in inline if re.match(r"captionkit \w+ \S", code))]
    return [words for line in lines for words in _commands(line)]


def _shell_lines(text: str) -> Iterator[str]:
    """The command lines of all shell blocks, continuations joined; what a console printed is passed over."""
    for language, body in _FENCE.findall(text):
        if language not in ("bash", "console", "sh", "shell"):
            continue
        lines = iter(body.splitlines())
        for line in lines:
            line = line.strip()
            prompted = line.startswith("$ ")
            if language == "console" and not prompted:
                continue
            line = line[2:] if prompted else line
            while line.endswith("\\"):
                line = line[:-1] + next(lines, "").strip().removeprefix("> ")
            # shlex would also take the # of s3://archive/a.tar#0001.jpg for a comment.
            line = re.sub(r"(^|\s)#.*", "", line).strip()
            if line:
                yield line


def _commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without variables set before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip(";&|"):
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL):
            words.pop(0)
        if words:
            yield words
        words = []


def _wrong(command: Sequence[str]) -> list[str]:
    """What is wrong with a command."""
    program, *args = command
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        targets = [arg for arg in args if not arg.startswith("-") and "=" not in arg]
        return [f"no target {target} in the Makefile" for target in targets if target not in _make_targets()]
    if program == "captionkit":
        return _wrong_subcommand(args)
    if re.fullmatch(r"python(3(\.\d+)?)?", program):
        return _wrong_python(args)
    if program == "ray" and "--" in args:
        return _wrong(args[args.index("--") + 1 :])
    if program == "pytest":
        return _missing(args)
    return [] if program in PROGRAMS else [f"unknown program {program}"]


def _wrong_subcommand(args: Sequence[str]) -> list[str]:
    if not args or args[0] in ("--help", "-h", "--version", "-V"):
        return []
    if args[0] not in COMMANDS:
        return [f"captionkit has no subcommand {args[0]}"]
    return _unknown_flags(("-m", "captionkit", args[0]), args[1:])


def _wrong_python(args: Sequence[str]) -> list[str]:
    if not args or args[0] in ("-c", "--version"):
        return []
    if args[0] == "-m":
        module, *rest = args[1:] or [""]
        if module == "captionkit":
            return _wrong_subcommand(rest)
        if module in MODULES:
            return _missing(rest) if module == "pytest" else []
        path = ROOT.joinpath(*module.split("."))
        if not module.startswith("captionkit.") or not (
            path.with_suffix(".py").exists() or (path / "__main__.py").exists()
        ):
            return [f"no module {module}"]
        return _unknown_flags(("-m", module), rest)
    if not (ROOT / args[0]).is_file():
        return [f"no file {args[0]}"]
    if args[0] == "jobs/caption.py":  # the same command, so one help is enough for both
        return _wrong_subcommand(["caption", *args[1:]])
    return _unknown_flags((args[0],), args[1:])


def _unknown_flags(command: tuple[str, ...], args: Sequence[str]) -> list[str]:
    flags = [arg.partition("=")[0] for arg in args if re.match("--[a-z]", arg)]
    if not set(flags) - {"--help"}:
        return []  # saves a process
    known = _flags(command)
    return [f"{' '.join(command)} knows no {flag}" for flag in flags if flag not in known]


@functools.cache
def _flags(command: tuple[str, ...]) -> frozenset[str]:
    """All flags that a command's help defines."""
    look = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    if command[:2] == ("-m", "captionkit"):  # here: a process takes seconds
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as told:
            for name, value in look.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit):
                main([*command[2:], "--help"])
        return frozenset(_DEFINED.findall(told.getvalue()))
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=ROOT,
        env={**os.environ, **look},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} --help: {done.stderr}"
    return frozenset(_DEFINED.findall(done.stdout))


@functools.cache
def _make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][\w-]*) *:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _missing(args: Sequence[str]) -> list[str]:
    return [f"no such path {arg}" for arg in args if _is_repository_path(arg) and not _exists(arg)]


def _is_repository_path(code: str) -> bool:
    """Whether this means a path of the repository, or (`model/bundle.py`) of a module by its place in the package."""
    top, slash, _ = code.partition("/")
    if not slash or not re.fullmatch(r"[\w./*-]+(::\w+)?", code) or top in MADE_HERE:
        return False
    return _top_level(top) or (code.endswith(".py") and (ROOT / "captionkit" / top).is_dir())


def _top_level(name: str) -> bool:
    return bool(name.strip(".")) and name != ".venv" and (ROOT / name).is_dir()


def _exists(code: str) -> bool:
    path = code.partition("::")[0]
    return any(True for place in (ROOT, ROOT / "captionkit") for _ in place.glob(path.rstrip("/")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert complaints(page.read_text("utf-8"), page.parent) == []


def test_the_readme_has_commands_to_check() -> None:
    commands = [
        command for line in _shell_lines((ROOT / "README.md").read_text("utf-8")) for command in _commands(line)
    ]
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands
    assert any(command[:2] == ["captionkit", "caption"] and "--input" in command for command in commands)


GOOD = """\
`make demo`, `captionkit caption --help`, `jobs/`, `captionkit/cli/app.py`, `model/bundle.py`, `tests/*.py`,
`photos/x.jpg`, `demo/captions.html`, [docs](docs/architecture.md#layers), [out](https://example.org/none), `make
test`

```console
$ make demo
page: nonsense --that printed
$ PYTHON=python3 make -j2 PYTHON=python3 demo test && cd docs  # and a comment
```

```bash
# a comment
AWS_PROFILE=me captionkit caption --input s3://a/b.tar#0001.jpg --output captions/ \\
  --max-failed=0.1 --no-mixed
ray job submit --address http://HEAD:8265 --working-dir . -- \\
  python jobs/caption.py --input in/ --output out/
.venv/bin/python -m captionkit gallery captions/ --limit 7 | git status; pip install .
python -m pytest tests/test_readme.py -k "a sentence"
```

```python
captionkit.nonsense --flag
```
"""


def test_a_good_page_is_passed() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```bash\nmake dmeo\n```", "no target dmeo in the Makefile"),
        ("```console\n$ make demo nothing\n```", "no target nothing in the Makefile"),
        ("say `make\ndmeo` and", "no target dmeo in the Makefile"),
        ("```bash\ncaptionkit capture --input a\n```", "captionkit has no subcommand capture"),
        ("say `captionkit capture`", "captionkit has no subcommand capture"),
        ("```bash\npython -m captionkit capture\n```", "captionkit has no subcommand capture"),
        ("```bash\ncaptionkit caption --inptu a\n```", "knows no --inptu"),
        ("```bash\nmake demo && X=1 captionkit caption \\\n  --input a \\\n  --beans=3\n```", "knows no --beans"),
        ("```bash\nray job submit --working-dir . -- python jobs/caption.py --no-input\n```", "knows no --no-input"),
        ("```bash\nray job submit -- python jobs/captions.py\n```", "no file jobs/captions.py"),
        (
            "```bash\n.venv/bin/python -m captionkit.training.nothing --x 1\n```",
            "no module captionkit.training.nothing",
        ),
        ("```bash\npython -m somebody.elses\n```", "no module somebody.elses"),
        ("```bash\npython benchmarks/none.py --x\n```", "no file benchmarks/none.py"),
        ("```bash\npython -m pytest tests/test_none.py\n```", "no such path tests/test_none.py"),
        ("```bash\nfrobnicate --all\n```", "unknown program frobnicate"),
        ("see `docs/none.md`", "docs/none.md: no such path"),
        ("see `model/none.py`", "model/none.py: no such path"),
        ("see [this](docs/none.md)", "docs/none.md: the link leads nowhere"),
    ],
)
def test_a_bad_page_is_caught(page: str, complaint: str) -> None:
    [found] = complaints(page)
    assert found.endswith(complaint)

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import ray
import yaml

import captionkit
from captionkit.cli import COMMANDS, OK, USAGE, main
from captionkit.pipeline.config import _groups, read_config, to_config
from captionkit.pipeline.options import CaptionOptions, InputOptions, OutputOptions
from captionkit.storage import UsageError


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == OK
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "exit codes" in text
    assert main(["--version"]) == OK
    assert captionkit.__version__ in capsys.readouterr().out
    assert main(["captoin"]) == USAGE


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage: captionkit " + command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--input", "/no/such/folder"], "no such file or folder"),
        (["--input", "nosuch://bucket/x"], "nosuch"),
        (["--input", ".", "--actors", "8:1"], "--actors 8:1"),
        (["--input", ".", "--actors", "many"], "--actors many"),
        (["--input", ".", "--batch-size", "0"], "--batch-size 0"),
        (["--input", ".", "--max-failed", "5"], "--max-failed 5.0: a share"),
        (["--input", ".", "--gpus-per-actor", "1.5"], "--gpus-per-actor 1.5"),
        (["--input", "benchmarks/results/million.svg", "--model", "/no/such/bundle"], "/no/such/bundle"),
        (["--input", ".", "--config", "/no/such/config.yaml"], "--config /no/such/config.yaml"),
    ],
)
def test_wrong_usage_is_found_before_ray_starts(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = ray.is_initialized()
    assert main(["caption", "--output", str(tmp_path / "out"), *args]) == USAGE
    assert message in capsys.readouterr().err
    assert ray.is_initialized() == running
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [["--baem", "5"], ["--beam", "0"], ["--beam", "many"], ["--beam", "2", "--n-best", "3"]]
)
def test_a_wrong_option_is_wrong_usage(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["caption", "--input", "a", "--output", "b", *wrong])
    assert end.value.code == USAGE


def test_options_survive_a_config_file(tmp_path: Path) -> None:
    options = CaptionOptions(InputOptions(("a", "b"), carry=("x",)), OutputOptions("out", max_failed=0.5))
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(to_config(options)))
    assert read_config(CaptionOptions, str(file)) == options


def test_no_two_options_share_a_name() -> None:
    names = [field.name for group in _groups(CaptionOptions).values() for field in fields(group)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beem: 5", "no option is called `beem`; `beam`?"),
        ("beam: many", "beam: Input should be a valid integer"),
        ("- a", "expected names and values"),
        ("a: [", "--config"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_config(CaptionOptions, str(file))
    assert message in str(error.value)


def test_help_does_not_load_torch() -> None:
    # Three seconds of waiting for a page of help, and on a login node perhaps no torch at all.
    script = (
        "import sys; from captionkit.cli import main\n"
        "try: main(['caption', '--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("wrong", [["--input", "/no/such"], ["--input", ".", "--actors", "0"]])
def test_wrong_usage_is_found_without_torch_and_ray(wrong: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; from captionkit.cli import main\n"
        f"code = main(['caption', '--output', {str(tmp_path / 'out')!r}, *{wrong!r}])\n"
        "sys.exit(code if not {'torch', 'ray'} & sys.modules.keys() else 'torch or Ray was loaded')"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == USAGE

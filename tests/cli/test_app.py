import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import ray
import yaml

import captionkit
from captionkit.cli import COMMANDS, OK, USAGE, main
from captionkit.config import _groups, read_config, to_config
from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.options import CaptionOptions, OutputOptions


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == OK
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "exit codes" in text
    assert main(["--version"]) == OK
    assert captionkit.__version__ in capsys.readouterr().out
    assert main(["captoin"]) == USAGE


def test_a_reader_who_has_read_enough_meets_no_traceback() -> None:
    command = [sys.executable, "-m", "captionkit", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_list_of_commands_loads_next_to_nothing() -> None:
    script = "import sys; from captionkit.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "pyarrow", "numpy", "tyro", "rich", "yaml"} & set(run.stderr.split())


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


@pytest.mark.parametrize(("model", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ())])
def test_one_value_in_a_config_file_stands_for_a_list_of_one(tmp_path: Path, model: object, expected: object) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"input": "photos", "output": "captions", "model": model}))
    options = read_config(CaptionOptions, str(file))
    assert options.captioner.model == expected
    assert options.inputs.input == ("photos",)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_loads_nothing_large(command: str) -> None:
    # Three seconds of waiting for a page of help, and on a login node perhaps no torch at all.
    script = (
        "import sys; from captionkit.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True, check=True)
    large = {"torch", "ray", "pyarrow", "fsspec", "PIL"} & set(run.stderr.split())
    small = {"numpy", "pydantic", "rich.progress", "captionkit.storage.store"} & set(run.stderr.split())
    # The names of the measures lie beside the measures, which need numpy.
    assert not large | (small - {"numpy"} if command == "evaluate" else small)


TRAIN, JUDGE = ["train", "--output", "out"], ["evaluate", "--output", "out"]
CAPTION, PLAN = ["caption", "--output", "out"], ["plan"]
WRONG = [
    ([*CAPTION, "--input", "/no/such"], "--input /no/such: no such file or folder"),
    ([*CAPTION, "--input", ".", "--model", "/no/such"], "/no/such is no captioner bundle"),
    ([*CAPTION, "--input", ".", "--actors", "0"], "--actors 0: expected"),
    ([*PLAN, "--input", "/no/such"], "--input /no/such: no such file or folder"),
    ([*PLAN, "--input", ".", "--model", "/no/such"], "/no/such is no captioner bundle"),
    ([*PLAN, "--input", ".", "--prices", "/no/such"], "--prices /no/such: "),
    ([*PLAN, "--input", ".", "--node-types", "abacus"], "--node-types abacus: the price file has"),
    ([*TRAIN, "--corpus", "/no/such"], "--corpus /no/such: no such file or folder"),
    ([*TRAIN, "--corpus", "/no/*.json"], "--corpus /no/*.json: nothing fits this pattern"),
    ([*TRAIN, "--corpus", "a.csv", "--images", "/no/such"], "--images /no/such: no such file or folder"),
    ([*TRAIN, "--corpus", "a.csv", "--dev-list", "/no/such"], "--dev-list /no/such: no such file or folder"),
    ([*TRAIN, "--corpus", "a.csv", "--glove", "/no/such"], "--glove /no/such: no such file or folder"),
    ([*TRAIN, "--corpus", "a.csv", "--teacher", "/no/such"], "--teacher /no/such: no such file or folder"),
    ([*TRAIN, "--corpus", "a.csv", "--encoder-weights", "/no"], "--encoder-weights /no: no such file"),
    ([*TRAIN, "--corpus", "a.csv", "--init", "/no/such"], "/no/such is no captioner bundle"),
    ([*TRAIN, "--corpus", "a.csv", "--workers", "0"], "--workers 0: at least 1"),
    ([*TRAIN, "--corpus", "a.csv", "--address", "nowhere"], "--address nowhere: expected"),
    ([*JUDGE, "--corpus", "/no/such"], "--corpus /no/such: no such file or folder"),
    ([*JUDGE, "--corpus", "a.csv", "--images", "/no/such"], "--images /no/such: no such file or folder"),
    ([*JUDGE, "--corpus", "a.csv", "--split-list", "/no/such"], "--split-list /no/such: no such file"),
    ([*JUDGE, "--corpus", "a.csv", "--table", "/no/such"], "--table /no/such: no such file or folder"),
    ([*JUDGE, "--corpus", "a.csv", "--model", "/no/such"], "/no/such is no captioner bundle"),
]
"""Commands, and what they complain of."""


def test_wrong_usage_is_found_without_torch_and_ray(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,A dog\n")
    (tmp_path / "a.jpg").write_bytes(b"1")
    script = (
        "import json, sys; from captionkit.cli import main\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    print('code', main(args), {'torch', 'ray'} & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(
        [*command, json.dumps([args for args, _ in WRONG])], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    answers = ran.stderr.split(f"code {USAGE} set()\n")
    assert answers.pop() == ""
    assert len(answers) == len(WRONG)
    for (args, complaint), answer in zip(WRONG, answers, strict=True):
        assert answer.startswith("captionkit: "), args
        assert complaint in answer
        assert answer.count("\n") == 1

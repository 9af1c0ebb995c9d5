"""Options as people type them."""

from __future__ import annotations

import pytest

from captionkit.cli.options import parse
from captionkit.pipeline.options import CaptionOptions


@pytest.mark.parametrize(
    "args",
    [
        ["--input", "one/", "two/"],
        ["--input", "one/", "--input", "two/"],
        ["--input=one/", "--input=two/"],
        ["--input", "one/", "--beam", "5", "--input", "two/"],
    ],
)
def test_an_option_given_twice_has_all_its_values(args: list[str]) -> None:
    options = parse(CaptionOptions, "caption", [*args, "--output", "out/", "--carry", "a", "--carry", "b", "c"])
    assert options.inputs.input == ("one/", "two/")
    assert options.inputs.carry == ("a", "b", "c")
    assert options.table.output == "out/"

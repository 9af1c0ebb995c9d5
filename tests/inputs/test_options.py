"""What `--carry` and `--existing` say together."""

from __future__ import annotations

import pytest

from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions


def test_a_carried_column_keeps_its_name_or_has_another() -> None:
    options = InputOptions(("in",), carry=("label", "caption", "a=b=c", "json.caption=old"))
    assert options.carried() == {
        "label": "label",
        "caption": "input_caption",
        "a=b": "c",
        "json.caption": "old",
    }


@pytest.mark.parametrize(
    ("carry", "message"),
    [
        (("title=caption",), "`caption` is a column of the caption table itself.*title=old_caption"),
        (("title=pixels",), "`pixels` is a column"),
        (("=x",), "expected COLUMN"),
        (("title=",), "expected COLUMN"),
        (("a=x", "b=x"), "two columns would be called `x`"),
        (("x", "b=x"), "two columns would be called `x`"),
        (("a=x", "a=y"), "`a` twice"),
    ],
)
def test_names_that_clash_are_refused(carry: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InputOptions(("in",), carry=carry).carried()


def test_the_column_of_existing_captions_is_the_only_one_or_named() -> None:
    assert InputOptions(("in",), carry=("txt",)).existing_stored() is None
    assert InputOptions(("in",), carry=("__key__", "caption=old"), existing="skip").existing_stored() == "old"
    with pytest.raises(UsageError, match=r"whole JSON is no caption; name its field: --carry json\.caption"):
        InputOptions(("in",), carry=("json=old",), existing="skip").existing_stored()
    both = InputOptions(("in",), carry=("a", "caption=old"), existing="keep", existing_column="caption")
    assert both.existing_stored() == "old"


@pytest.mark.parametrize(("carry", "column"), [((), None), (("a", "b"), None), (("a",), "b")])
def test_existing_captions_without_a_column_are_refused(carry: tuple[str, ...], column: str | None) -> None:
    with pytest.raises(UsageError, match="with --carry"):
        InputOptions(("in",), carry=carry, existing="keep", existing_column=column).existing_stored()

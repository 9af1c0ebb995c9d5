"""Options from and to config files: the command line's own names, flat, in YAML or JSON."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro

from captionkit.errors import UsageError

T = TypeVar("T")


def read_config(kind: type[T], uri: str) -> T:
    """Options from a config file; what it leaves out keeps its default, or is `tyro.MISSING` where there is none.

    A run record is a config file too: its `options` repeat that run. So is what `captionkit status --json` prints.

    Raises:
        UsageError: the file is missing, is no YAML or JSON, names an unknown option or gives one a wrong value.
    """
    values, named = read_values(uri, "--config")
    return from_values(kind, values, named)


def read_values(uri: str, option: str) -> tuple[dict[str, Any], str]:
    """Names and values in a YAML or JSON file, and what to call the file in messages.

    Args:
        option: the option that named the file, for messages.

    Raises:
        UsageError: the file is missing, or is no mapping in YAML or JSON.
    """
    # Late, as all below: every command's `--help` imports this module.
    import yaml

    from captionkit.lfs import LFS_POINTER, is_lfs_pointer
    from captionkit.storage import Storage, StorageError, public_uri
    from captionkit.storage.documents import from_document

    named = f"{option} {public_uri(uri)}"
    try:
        data = Storage().read(Storage().normalize(uri))
        if is_lfs_pointer(data):
            raise UsageError(f"{named} is {LFS_POINTER}")
        values = from_document(data) if data[:4] == b"PAR1" else yaml.safe_load(data)
    except (StorageError, yaml.YAMLError, ValueError) as err:
        raise UsageError(f"{named}: {err}") from err
    if isinstance(values, dict) and isinstance(values.get("options"), dict):
        values = values["options"]
    if not isinstance(values, dict):
        raise UsageError(f"{named}: expected names and values of options, as in `beam: 5`")
    return {str(name).replace("-", "_"): value for name, value in values.items()}, named


def from_values(kind: type[T], values: Mapping[str, Any], named: str) -> T:
    """Options from names and values; as `read_config`.

    Raises:
        UsageError: an unknown option or a wrong value.
    """
    from pydantic import ValidationError

    known = [field.name for group in _groups(kind).values() for field in fields(group)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"{named}: no option is called `{name}`" + (f"; `{close[0]}`?" if close else ""))
    try:
        return kind(**{name: _group(group, values) for name, group in _groups(kind).items()})
    except (ValidationError, ValueError) as err:
        raise UsageError(f"{named}: {err}") from err


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Several values of an option: of one that was given alone, of several, of none."""
    return () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)


def to_config(options: Any) -> dict[str, Any]:
    """Options as a flat mapping that `read_config` takes back."""
    flat: dict[str, Any] = {}
    for name in _groups(type(options)):
        flat |= asdict(getattr(options, name))
    return flat


def _groups(kind: type[Any]) -> dict[str, type[Any]]:
    hints = get_type_hints(kind)
    return {
        field.name: hints[field.name] for field in fields(kind) if hasattr(hints[field.name], "__dataclass_fields__")
    }


def _group(kind: type[Any], values: Mapping[str, Any]) -> Any:
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in values:
            value = values[field.name]
            if get_origin(hints[field.name]) is tuple:
                value = as_tuple(value)
            try:
                given[field.name] = TypeAdapter(hints[field.name]).validate_python(value)
            except ValidationError as err:
                raise ValueError(f"{field.name}: {err.errors()[0]['msg']}") from err
        elif field.default is MISSING and field.default_factory is MISSING:
            given[field.name] = tyro.MISSING
    return kind(**given)

"""Names that packages offer at their top."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = (
    "inputs",
    "table",
    "pipeline",
    "plan",
    "training",
    "evaluation",
    "corpus",
    "metrics",
    "gallery",
    "drawing",
    "images",
    "storage",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_offered_name_is_importable(name: str) -> None:
    package = importlib.import_module(f"captionkit.{name}")
    assert sorted(package.__all__) == sorted(set(package.__all__))
    for offered in package.__all__:
        assert getattr(package, offered) is not None
    assert not hasattr(package, "no_such_name")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_imported_without_torch_and_ray(name: str) -> None:
    code = f"import sys, captionkit.{name}; sys.exit(sum(module in sys.modules for module in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

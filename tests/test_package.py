"""What `import captionkit` costs and offers."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import captionkit


@pytest.mark.parametrize("statement", ["import captionkit", "from captionkit import SearchOptions, Vocabulary"])
def test_it_comes_without_torch_and_ray(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit(sum(name in sys.modules for name in ('torch', 'ray', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_it_offers_is_there() -> None:
    assert captionkit.__version__
    for name in captionkit.__all__:
        assert getattr(captionkit, name) is not None
    assert dir(captionkit) == sorted(captionkit.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Caption3r'"):
        captionkit.Caption3r  # noqa: B018


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((Path(__file__).parent.parent / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == captionkit.__version__

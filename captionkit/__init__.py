"""captionkit: distributed image captioning in batch, on Ray.

    from captionkit import Captioner
    Captioner.load().caption(["dog.jpg"])[0].text

The names below are imported when they are first used, so that `import captionkit` costs nothing: a Ray
driver, a command's `--help` and the table's readers need no torch.
"""

import importlib
from typing import TYPE_CHECKING

from captionkit._version import __version__

if TYPE_CHECKING:
    from captionkit.model.bundle_files import BundleError
    from captionkit.model.captioner import Caption, Captioner, Hypothesis
    from captionkit.model.search.options import SearchOptions
    from captionkit.vocabulary import Vocabulary


__all__ = ["BundleError", "Caption", "Captioner", "Hypothesis", "SearchOptions", "Vocabulary", "__version__"]

_HOMES = {
    "BundleError": "captionkit.model.bundle_files",
    "Caption": "captionkit.model.captioner",
    "Captioner": "captionkit.model.captioner",
    "Hypothesis": "captionkit.model.captioner",
    "SearchOptions": "captionkit.model.search.options",
    "Vocabulary": "captionkit.vocabulary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

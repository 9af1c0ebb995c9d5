"""captionkit: distributed image captioning in batch, on Ray.

    from captionkit import Captioner
    Captioner.load().caption(["dog.jpg"])[0].text

The names below are imported when they are first used, so that `import captionkit` costs nothing: a Ray
driver, a command's `--help` and the table's readers need no torch.
"""

from typing import TYPE_CHECKING

from captionkit._version import __version__
from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.model.bundle_files import BundleError
    from captionkit.model.captioner import Caption, Captioner, Hypothesis
    from captionkit.model.search.options import SearchOptions
    from captionkit.vocabulary import Vocabulary


__all__ = ["BundleError", "Caption", "Captioner", "Hypothesis", "SearchOptions", "Vocabulary", "__version__"]

__getattr__ = lazy_names(
    __name__,
    {
        "BundleError": "model.bundle_files",
        "Caption": "model.captioner",
        "Captioner": "model.captioner",
        "Hypothesis": "model.captioner",
        "SearchOptions": "model.search.options",
        "Vocabulary": "vocabulary",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Search: from features to the ids of captions, for any decoder, batched over images and hypotheses.

`SearchOptions` comes without torch, for commands that only want to read or explain options.
"""

from typing import TYPE_CHECKING

from captionkit.model.search.options import SearchOptions

if TYPE_CHECKING:
    from captionkit.model.search.entry import search
    from captionkit.model.search.ranking import SearchResult

__all__ = ["SearchOptions", "SearchResult", "search"]


def __getattr__(name: str) -> object:
    if name == "search":
        from captionkit.model.search.entry import search

        return search
    if name == "SearchResult":
        from captionkit.model.search.ranking import SearchResult

        return SearchResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

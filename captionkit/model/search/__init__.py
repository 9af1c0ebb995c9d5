"""Search: from features to token ids of captions, for any decoder, batched over images and hypotheses.

`SearchOptions` needs no torch, for commands that only read or explain options. The search itself does: it is `search`
in `captionkit.model.search.search`, and gives a `captionkit.model.search.ranking.SearchResult`.
"""

from captionkit.model.search.options import SearchOptions

__all__ = ["SearchOptions"]

"""What the page asks for and tells: pages of cards, and decisions, which are saved before they are confirmed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from captionkit.drawing.formatting import address, one_line
from captionkit.errors import UsageError
from captionkit.export.rows import plain
from captionkit.gallery.page import ADDRESS_LENGTH, REASON_LENGTH
from captionkit.review.index import GENERATED, OTHER, Index, Query
from captionkit.table.reviews import APPROVED, EDITED, REJECTED, Review, Reviews

if TYPE_CHECKING:
    from captionkit.review.word_attention import WordAttention  # imports torch

CAPTION_LENGTH = 10_000
"""Characters that an edited caption may have."""
PAGE = 40
"""Cards of one answer."""


class Desk:
    """One table on the desk. Safe to use from many threads.

    Args:
        reviews: what was decided; None for nothing.
        reviewer: who decides.
        editing: decisions can be made; else the page is for looking only.
        before_save: called before each save; raises where this process may not write any more.
        attention: shows where a captioner looked for words of its captions.
    """

    def __init__(
        self,
        index: Index,
        reviews: Reviews | None,
        reviewer: str = "",
        editing: bool = True,
        before_save: Callable[[], None] = lambda: None,
        attention: WordAttention | None = None,
    ) -> None:
        self.index, self.reviews, self.attention = index, reviews, attention
        self._reviewer, self._before_save = reviewer, before_save
        self.editing = editing and reviews is not None
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._changes = self._saved = 0

    def facts(self) -> dict[str, Any]:
        """What the page says of the table as a whole."""
        index = self.index
        return {
            "rows": len(index),
            "captioned": index.captioned,
            "kinds": [[name, count] for name, count in index.kinds.most_common()],
            "models": [[name, count] for name, count in index.models.most_common()],
            "against": index.has_other,
            "editing": self.editing,
            "attends": self.attention is not None,
            "counts": index.counts(),
        }

    def page(self, query: Query, offset: int) -> dict[str, Any]:
        """The cards from `offset` on that a query wants, and how many there are in all.

        Raises:
            UsageError: the query cannot be.
        """
        rows = self.index.find(query, again=offset == 0)
        cards = [self.card(number) for number in rows[offset : offset + PAGE].tolist()]
        return {"total": len(rows), "cards": cards, "counts": self.index.counts()}

    def card(self, number: int) -> dict[str, Any]:
        """A row as the page shows it, and as it is decided now.

        Raises:
            IndexError: there is no such row.
        """
        row = plain(self.index.row(number))
        folder, name = address(one_line(row["uri"], ADDRESS_LENGTH))
        card = {
            "row": number,
            "folder": folder,
            "name": name,
            "caption": row[GENERATED],
            "generated": row[GENERATED],
            "failed": row["error_kind"],
            "error": one_line(row["error"], REASON_LENGTH),
            "score": row["score"],
            "size": f"{row['width']} × {row['height']}" if row["width"] and row["height"] else "",
            "model": row["model"],
            "alternatives": [other["caption"] for other in row["alternatives"] or () if other["caption"]],
            "review": None,
            "reviewer": None,
            "earlier": None,
        }
        # While this is the captioner's own caption, whatever people made of it.
        card["words"] = None if self.attention is None else self.attention.words(card["caption"], row["model"])
        if self.index.has_other:
            card["other"] = {name: row[name] for name in OTHER}
        review = None if self.reviews is None else self.reviews.get(row["uri"])
        if review is not None and review.holds_for(row["image_id"], row[GENERATED]):
            card |= {"review": review.decision, "reviewer": review.reviewer, "caption": review.caption}
        elif review is not None:
            card["earlier"] = {"decision": review.decision, "caption": review.caption or review.generated}
        return card

    def decide(self, number: int, decision: str | None, caption: str | None = None) -> dict[str, Any]:
        """Save a decision about a row, or withdraw one; the row's card as it is then.

        Args:
            decision: one of `captionkit.table.reviews.DECISIONS`; None to withdraw it.
            caption: the text, where it was edited.

        Raises:
            IndexError: there is no such row.
            UsageError: nothing can be decided here, or not so.
            StorageError: it could not be saved, and does not hold.
        """
        if self.reviews is None or not self.editing:
            raise UsageError("this page is for looking only")
        row = self.index.row(number)
        review = None if decision is None else self._review(row, decision, caption)
        before = self.reviews.get(row["uri"])
        self._change(row["uri"], review)
        try:
            self._save()
        except BaseException:
            self._change(row["uri"], before)
            raise
        self.index.decide(number, decision if review is None else review.decision)
        return self.card(number)

    def _review(self, row: dict[str, Any], decision: str, caption: str | None) -> Review:
        text: str | None = (caption or "").encode("utf-8", "replace").decode().strip()
        generated: str | None = row[GENERATED]
        if decision == EDITED and text == generated:
            decision = APPROVED
        if decision == EDITED:
            if not text or len(text) > CAPTION_LENGTH:
                raise UsageError(f"a caption has 1 to {CAPTION_LENGTH:,} characters, and this one {len(text or ''):,}")
        elif decision not in (APPROVED, REJECTED):
            raise UsageError(f"there is no decision {one_line(decision, 40)}")
        elif not generated:
            raise UsageError("there is no caption to approve or reject; write one")
        else:
            text = generated if decision == APPROVED else None
        now = datetime.now(timezone.utc)
        return Review(row["uri"], row["image_id"], decision, text, generated, row["model"], self._reviewer or None, now)

    def _change(self, uri: str, review: Review | None) -> None:
        assert self.reviews is not None
        with self._lock:
            self.reviews.change([] if review is None else [review], [] if review is not None else [uri])
            self._changes += 1

    def _save(self) -> None:
        """Return once a save that began after the latest change has ended; of many that wait, one saves for all."""
        assert self.reviews is not None
        wanted = self._changes
        with self._saving:
            if self._saved >= wanted:
                return
            with self._lock:
                changes = self._changes
            self._before_save()
            self.reviews.save()
            self._saved = changes

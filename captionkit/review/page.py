"""The page itself: one document, whose rows the server sends as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from captionkit.drawing.formatting import one_line
from captionkit.drawing.templates import allow, environment
from captionkit.gallery.page import CAPTION_LENGTH

COLUMN = 256
"""Least width of a tile in pixels."""


@dataclass(frozen=True)
class Page:
    """The document, and the Content-Security-Policy that it is sent with."""

    html: str
    policy: str


def make_page(title: str, table: str, order: str) -> Page:
    """The page of a table. Its script asks for everything else.

    Args:
        order: the order that it begins with.
    """
    templates = environment("captionkit.review")
    style = templates.get_template("page.css.jinja").render(column=COLUMN)
    style += templates.get_template("review.css.jinja").render()
    script = templates.get_template("review.js.jinja").render()
    html = templates.get_template("review.html.jinja").render(
        style=Markup(style),
        script=Markup(script),
        title=one_line(title, CAPTION_LENGTH),
        table=one_line(table, CAPTION_LENGTH),
        order=order,
    )
    return Page(
        html,
        "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
        f"style-src {allow(style)}; script-src {allow(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    )

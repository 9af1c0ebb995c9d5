"""The page itself: one document, whose rows the server sends as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captionkit.gallery.formatting import one_line
from captionkit.gallery.page import CAPTION_LENGTH, hashes

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
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("captionkit.review", "."), PackageLoader("captionkit.gallery", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    style = environment.get_template("page.css.jinja").render(column=COLUMN)
    style += environment.get_template("review.css.jinja").render()
    script = environment.get_template("review.js.jinja").render()
    html = environment.get_template("review.html.jinja").render(
        style=Markup(style),
        script=Markup(script),
        title=one_line(title, CAPTION_LENGTH),
        table=one_line(table, CAPTION_LENGTH),
        order=order,
    )
    style_hash, script_hash = hashes(style, script)
    return Page(
        html,
        "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
        f"style-src {style_hash}; script-src {script_hash}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    )

"""SVG by resvg: drawn at the size that is needed, and with nothing that is not in the file."""

from __future__ import annotations

import base64
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionkit.images import ImageError, Limits, Preprocessing, Sandbox, decode
from tests.support.image_zoo import encode

SQUARE = Preprocessing(size=40, resize=40, mode="squash")
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(body: str, attributes: str = 'width="60" height="30"') -> bytes:
    return f'<?xml version="1.0"?>\n<svg {NAMESPACES} {attributes}>{body}</svg>'.encode()


def colours(data: bytes) -> tuple[list[int], list[int]]:
    """Of the middle of the left half and of the right one."""
    pixels = decode(data, SQUARE).pixels
    return pixels[20, 10].tolist(), pixels[20, 30].tolist()


HALF = svg('<rect width="30" height="30" fill="#c00000"/>')
needs_resvg = pytest.mark.skipif(find_spec("resvg_py") is None, reason="needs captionkit[svg]")


@needs_resvg
def test_what_is_not_drawn_on_is_white() -> None:
    assert colours(HALF) == ([192, 0, 0], [255, 255, 255])


@needs_resvg
@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="60" height="30"', (60, 30)),
        ('width="1in" height="0.5in"', (96, 48)),
        ('viewBox="0 0 60 30"', (60, 30)),
        ('viewBox="0 0 60 30" width="120"', (120, 60)),
        ('viewBox="0 0 60 30" width="100%" height="100%"', (60, 30)),
        ('viewBox="0 0 60 30" width="600000" height="300000"', (600_000, 300_000)),
    ],
)
def test_sizes(attributes: str, size: tuple[int, int]) -> None:
    """However large it says it is: it is drawn as large as the model wants it."""
    box = "" if "viewBox" in attributes else ' viewBox="0 0 60 30"'
    found = decode(svg('<rect width="30" height="30" fill="#c00000"/>', attributes + box), SQUARE)
    assert (found.width, found.height) == size
    assert found.pixels[20, 10].tolist() == [192, 0, 0]


@needs_resvg
def test_other_files_and_the_network_are_not_asked(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(Image.new("RGB", (8, 8), "black"), "PNG"))
    inner = svg(f'<image href="{secret}" width="60" height="30"/>')
    nested = "data:image/svg+xml;base64," + base64.b64encode(inner).decode()
    for link in (str(secret), secret.as_uri(), f" {secret}", "http://127.0.0.1:9/a.png", nested):
        for name in ("href", "xlink:href"):
            drawn = colours(svg(f'<image {name}="{link}" width="60" height="30"/>'))
            assert drawn == ([255, 255, 255], [255, 255, 255]), link
        blended = f'<filter id="f"><feImage href="{link}"/></filter><rect width="60" height="30" filter="url(#f)"/>'
        assert colours(svg(blended)) == ([255, 255, 255], [255, 255, 255]), link
    entity = f'<!DOCTYPE svg [<!ENTITY e "{secret}">]>'.encode()
    assert colours(svg('<image href="&e;" width="60" height="30"/>').replace(b"?>\n", b"?>\n" + entity))[0] == [255] * 3


@needs_resvg
def test_images_within_the_file_are_drawn() -> None:
    within = "data:image/png;base64," + base64.b64encode(encode(Image.new("RGB", (8, 8), "#00c000"), "PNG")).decode()
    body = f'<image xlink:href="{within}" width="30" height="30"/><script>alert(1)</script>'
    again = '<defs><rect id="r" width="30" height="30" fill="#0000c0"/></defs><use href="#r" x="30"/>'
    assert colours(svg(body + again)) == ([0, 192, 0], [0, 0, 192])


def test_what_is_said_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImageError, match=r"an SVG drawing is read with an extra: pip install 'captionkit\[svg\]'"):
        decode(HALF, SQUARE)


@needs_resvg
def test_damage_bombs_and_loops() -> None:
    def kind(data: bytes) -> str:
        with pytest.raises(ImageError) as caught:
            decode(data, SQUARE, Limits(max_pixels=1_000_000))
        return caught.value.kind

    assert kind(HALF[:-8]) == "corrupt"
    assert kind(svg("", 'width="0" height="0" viewBox="0 0 0 0"').replace(b"2000/svg", b"2000/svj")) == "corrupt"
    assert kind(svg("", 'width="1" height="1000000"')) == "too_many_pixels"
    laughs = '<!DOCTYPE svg [<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
    ) + "]>"  # fmt: skip
    assert kind(svg("<text>&a11;</text>").replace(b"?>\n", b"?>\n" + laughs.encode())) == "corrupt"
    loop = svg('<g id="a"><use href="#a"/></g><rect width="30" height="30" fill="#c00000"/>')
    assert colours(loop)[1] == [255, 255, 255]


@needs_resvg
def test_in_the_sandbox() -> None:
    with Sandbox(SQUARE, threads=2) as sandbox:
        (outcome,) = sandbox.decode_many([HALF])
    assert np.array_equal(outcome.pixels, decode(HALF, SQUARE).pixels)  # type: ignore[union-attr]

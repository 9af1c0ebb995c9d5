"""What embedded colour profiles do to captions: photos put into wider or printers' colours, read with and without them.

Each photo is converted by LittleCMS into the colours of a profile, stored losslessly (PNG; CMYK as TIFF), and captioned
once as it is and once with the profile taken out, which is how most loaders read it. Counted is how many captions are
not those of the same photo in sRGB, and how far the pixels are from it, of 255. A JPEG of quality 90 of the photo shows
what such figures mean.

    pip install imagecodecs
    python benchmarks/colour_profiles.py --model bundle --images dev-0000.tar --cmyk printer.icc
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from io import BytesIO

import imagecodecs
import numpy as np
from _report import Row, report
from PIL import Image, ImageCms

from captionkit import Captioner
from captionkit.images import decode

WIDE = {
    "Display P3": ((0.3127, 0.3290), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060), 2.2),
    "Adobe RGB": ((0.3127, 0.3290), (0.640, 0.330, 0.210, 0.710, 0.150, 0.060), 563 / 256),
    "ProPhoto RGB": ((0.3457, 0.3585), (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8),
}
"""White point, primaries, gamma."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, help="a tar of photos in sRGB")
    parser.add_argument("--cmyk", nargs="*", default=[], help="ICC profiles of printers")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--json", help="also write the table, with the machine's facts, to this file")
    options = parser.parse_args()
    profiles = {
        name: imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=gamma)
        for name, (white, primaries, gamma) in WIDE.items()
    }
    for path in options.cmyk:
        with open(path, "rb") as file:
            profiles[f"CMYK, {path.rpartition('/')[2]}"] = file.read()
    captioner = Captioner.load(options.model)
    photos = list(read(options.images, options.photos))

    def captions(files: list[bytes]) -> list[str]:
        return [caption.text or "" for caption in captioner.caption(files, beam=options.beam)]

    def pixels(data: bytes) -> np.ndarray:
        return decode(data, captioner.preprocessing).pixels.astype(int)

    plain = [encoded(photo) for photo in photos]
    truth = captions(plain)

    def row(name: str, way: str, files: list[bytes]) -> Row:
        found = captions(files)
        changed = sum(one != two for one, two in zip(found, truth, strict=True)) / len(truth)
        off = [np.abs(pixels(one) - pixels(two)).mean() for one, two in zip(files[:100], plain, strict=False)]
        return {"colours": name, "profile": way, "captions changed": changed, "pixels off": float(np.mean(off))}

    rows = [row("sRGB, JPEG", "none", [jpeg(photo) for photo in photos])]
    for name, profile in profiles.items():
        for way, kept in (("converted", profile), ("ignored", None)):
            rows.append(row(name, way, [encoded(in_colours(photo, profile), kept) for photo in photos]))
    report(rows, options.json)


def read(path: str, most: int) -> Iterator[Image.Image]:
    """Photos of a tar in RGB."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".jpg") and most > 0:
                most -= 1
                file = tar.extractfile(member)
                assert file is not None
                yield Image.open(BytesIO(file.read())).convert("RGB")


def in_colours(photo: Image.Image, profile: bytes) -> Image.Image:
    """A photo in sRGB → the numbers that stand for the same colours in this profile."""
    mode = "CMYK" if profile[16:20] == b"CMYK" else "RGB"
    to = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(photo, ImageCms.createProfile("sRGB"), to, outputMode=mode)
    assert converted is not None
    return converted


def encoded(photo: Image.Image, profile: bytes | None = None) -> bytes:
    """As a file without loss, with the profile embedded."""
    file = BytesIO()
    photo.info.pop("icc_profile", None)
    options = {} if profile is None else {"icc_profile": profile}
    photo.save(file, "TIFF" if photo.mode == "CMYK" else "PNG", **options)
    return file.getvalue()


def jpeg(photo: Image.Image) -> bytes:
    file = BytesIO()
    photo.save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main()

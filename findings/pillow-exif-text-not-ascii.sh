#!/usr/bin/env bash
# EXIF text with letters beyond ASCII: Pillow writes "?" in their place, without an error, and reads UTF-8 as Latin-1.
#
# pillow 13.0.0, JPEG: Image.Exif()[ImageDescription] = "a café" is saved as b"a caf?\0"; the same for Artist, Copyright
# and for TIFF's tags. EXIF 2.32 allows ASCII alone there, but ExifTool and cameras write UTF-8 (and EXIF 3.0 has a type
# for it), and Pillow hands that out as "a cafÃ©". So opening such a file and saving it with `exif=image.getexif()`
# turns "a café" into "a caf??", although nobody touched that tag. `exif=image.info["exif"]` copies the bytes and keeps it;
# bytes in place of text (`exif[tag] = "a café".encode()`) are written as they are.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q pillow==13.0.0
"$home/venv/bin/python" - <<'PYTHON'
import io
import struct

from PIL import Image, __version__
from PIL.ExifTags import Base

TEXT = "a café"
UTF8 = TEXT.encode() + b"\0"


def saved(image, exif):
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif)
    return data.getvalue()


image = Image.new("RGB", (8, 8))
exif = Image.Exif()
exif[Base.ImageDescription.value] = TEXT
written = saved(image, exif)

# The same as ExifTool writes it: a block with this one tag, type ASCII, UTF-8 in it.
tag = struct.pack("<HHII", Base.ImageDescription.value, 2, len(UTF8), 26)
by_others = saved(image, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0" + UTF8)
assert UTF8 in by_others
opened = Image.open(io.BytesIO(by_others))
read = opened.getexif()[Base.ImageDescription.value]
again = saved(opened, opened.getexif())

exif[Base.ImageDescription.value] = TEXT.encode()
print("pillow", __version__)
print("written as a caf?:", b"a caf?\0" in written, "| UTF-8 read as:", read)
assert b"a caf?\0" in written and TEXT.encode() not in written
assert read == TEXT.encode().decode("latin-1") == "a cafÃ©"
assert b"a caf??\0" in again and UTF8 not in again
assert UTF8 in saved(opened, opened.info["exif"])
assert UTF8[:-1] in saved(image, exif)
PYTHON
echo "as described"

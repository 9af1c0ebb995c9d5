#!/usr/bin/env bash
# An image that Pillow has saved as PNG cannot be a later page of a TIFF any more.
#
# pillow 13.0.0: after red.save(..., "PNG"), blue.save(..., "TIFF", save_all=True, append_images=[red]) raises TypeError
# "function takes at most 4 arguments (8 given)". PNG's writer leaves its options in `red.encoderconfig`, and TIFF's
# (`_save_all`) sets that of appended images only where there is none. A copy of the image can be appended.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q pillow==13.0.0
"$home/venv/bin/python" - <<'PYTHON'
from io import BytesIO

from PIL import Image

red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")


def append(image):
    try:
        blue.save(BytesIO(), "TIFF", save_all=True, append_images=[image])
    except TypeError as error:
        return f"TypeError: {error}"
    return "saved"


found = [append(red)]
red.save(BytesIO(), "PNG")
found += [append(red), append(red.copy())]
print(found)
assert found[0] == found[2] == "saved", found
assert found[1].startswith("TypeError: function takes at most 4 arguments"), found
PYTHON

#!/usr/bin/env bash
# White of a JPEG 2000 in colour with more than 8 bits a sample comes out black in Pillow.
# Seen with pillow 13.0.0 and imagecodecs 2026.3.6 (both by OpenJPEG) on Python 3.11:
# - a lossless RGB codestream of 12 or 16 bits, all samples at their highest value: Image.open(...).load() gives 0 in
#   every channel (it adds half a step before it shifts down to 8 bits, which carries past 255). Grey of 16 bits keeps
#   its values, as mode I;16.
# - a sample just below (by more than half a step) comes out right, so photographs look sound but for black specks where
#   highlights are clipped.
# - a lossless grey codestream of 4 bits: white comes out as 240: shifted up, not scaled.
# - imagecodecs.jpeg2k_decode gives the stored values in all cases.
# Fails once that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet pillow==13.0.0 imagecodecs==2026.3.6 numpy
venv/bin/python - <<'P'
import io

import imagecodecs
import numpy as np
import PIL
from PIL import Image

print("versions: pillow", PIL.__version__, "imagecodecs", imagecodecs.__version__)


def both(value, bits, channels):
    kind = np.uint16 if bits > 8 else np.uint8
    shape = (32, 32, 3) if channels == 3 else (32, 32)
    data = imagecodecs.jpeg2k_encode(np.full(shape, value, kind), level=0, reversible=True, bitspersample=bits, codecformat="j2k")
    stored = int(imagecodecs.jpeg2k_decode(data).max())
    image = Image.open(io.BytesIO(data))
    shown = int(np.asarray(image).max())
    print(f"{channels} channel(s) of {bits} bits, stored {stored}: Pillow {image.mode} {shown}")
    return stored, image.mode, shown


assert both(65535, 16, 3) == (65535, "RGB", 0)
assert both(4095, 12, 3) == (4095, "RGB", 0)
assert both(65535 - 256, 16, 3) == (65279, "RGB", 255)
assert both(65535, 16, 1) == (65535, "I;16", 65535)
assert both(15, 4, 1) == (15, "L", 240)
P
echo "as described"

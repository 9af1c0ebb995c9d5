#!/usr/bin/env bash
# Pillow's reduced decoding of JPEG 2000 (`image.reduce = n`) fails for some sizes that are not multiples of 2 ** n.
#
# pillow 13.0.0: JPEG 2000 of 1001 × 777, reduce = 1 loads, 2 and 3 raise OSError "broken data stream when
# reading image file". Of 640 × 480 all three load. A level's size is rounded up in JPEG 2000 (ISO 15444-1, B-15:
# ceil(1001 / 4) = 251, ceil(777 / 4) = 195); Pillow expects the nearest (250, 194).
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q pillow==13.0.0
"$home/venv/bin/python" - <<'PYTHON'
from io import BytesIO

from PIL import Image, features

print("OpenJPEG", features.version_codec("jpg_2000"))
found = {}
for size in ((1001, 777), (640, 480)):
    data = BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(data, "JPEG2000")
    for reduce in (1, 2, 3):
        image = Image.open(BytesIO(data.getvalue()))
        image.reduce = reduce
        try:
            image.load()
            found[size, reduce] = "loads"
        except OSError as error:
            found[size, reduce] = str(error)
        print(size, "reduce", reduce, image.size, found[size, reduce])
assert found[(1001, 777), 2].startswith("broken data stream")
assert [found[(640, 480), reduce] for reduce in (1, 2, 3)] == ["loads"] * 3
PYTHON

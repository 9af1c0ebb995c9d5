"""Caption images in this process, without Ray and without a table.

python examples/caption_in_python.py photo.jpg s3://archive/dog.jpg
python examples/caption_in_python.py --model s3://models/flickr8k photo.jpg
"""

from __future__ import annotations

import argparse

from captionkit import Captioner


def main() -> None:
    parser = argparse.ArgumentParser(description="Caption images in this process.")
    parser.add_argument("images", nargs="+", help="paths or addresses")
    parser.add_argument("--model", help="a captioner's address (default: the one for drawn scenes in the package)")
    parser.add_argument("--beam", type=int, default=5)
    options = parser.parse_args()
    captioner = Captioner.load(options.model) if options.model else Captioner.load()
    for image, caption in zip(options.images, captioner.caption(options.images, beam=options.beam), strict=True):
        if caption.text is None:  # one bad image costs no other
            print(f"{image}: {caption.error_kind}: {caption.error}")
        else:
            print(f"{image}: {caption.text} ({caption.score:.2f})")


if __name__ == "__main__":
    main()

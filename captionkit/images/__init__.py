"""Bytes → RGB uint8 at a model's geometry, by a written policy.

What goes in: JPEG (with MPO), PNG (with APNG), WebP, GIF, BMP, DIB, TIFF, JPEG 2000, AVIF, binary Netpbm, SGI, PCX, TGA
and Photoshop's composites; camera raws by their previews; with extras HEIC, JPEG XL, raws without a preview, SVG,
DICOM and PDF. A format whose extra is missing fails as "unsupported_format", and so do all others: PostScript, icons …

What comes out, for every image alike:

- **Limits first.** Bytes and the header's pixel count are checked before a pixel is decoded. Outside
  a sandbox some of Pillow's readers (GIF, WebP, TIFF) also hold to `2 * PIL.Image.MAX_IMAGE_PIXELS`. Running out of
  memory while decoding fails that image as "too_many_pixels". In a sandbox large images wait for each other.
- **Whole images only.** A file that ends early fails as "truncated", never as a image that is half grey.
- **Metadata** that no pixel needs costs no image: what breaks a PNG or JPEG there is left out and it is tried again.
- **Upright.** EXIF orientation (or XMP's where EXIF has none) is applied, all eight; width and height are
  those of the upright image.
- **Geometry** is torchvision's: Resize(resize) then CenterCrop(size), rounding included. JPEG and
  JPEG 2000 much larger than needed are decoded at 1/2, 1/4 or 1/8 first.
- **See-through** (alpha, LA, a palette's or a single transparent colour) is laid on white.
- **Animations and many pages**: the first frame or page, or as `Limits.frame` says the middle one, or the one of the
  highest entropy among 8. Smaller copies and masks in TIFFs are no pages.
- **Drawings and documents** (SVG, PDF) are drawn at the size that the model wants.
- **Palette** images are looked up in their palette, **1-bit** becomes black and white, **grey** becomes
  three equal channels.
- **CMYK** in JPEG is read as Adobe writes it (inverted, as nearly every CMYK JPEG is, with an Adobe marker or
  without; YCCK too). Without a profile it is mixed so: R = (1-C)(1-K).
- **JPEG 2000** is read in grey, sRGB, sYCC (chroma at a lower resolution too), ROMM RGB, CMYK and with a palette, of up
  to 16 bits; its other colour spaces fail as "unsupported_format". Of colours of more than 8 bits 7 are kept.
- **16-bit** channels keep their upper 8 bits (value / 256; not clipped).
- **Greys of 9 to 15 bits**, also where 16 bits store them, keep the upper 8 of the bits that the file declares
  (TIFF's BitsPerSample, SMaxSampleValue, MaxSampleValue). Where it declares none, the highest value says how many there
  are, 10 to 14; above that all 16 count.
- **Signed, 32-bit integer and float** values (TIFF), by the first of these that holds. Signed 16-bit and unsigned
  32-bit integers that fill half of their type's range or more keep their upper 8 bits. Values that lie within 0 to 1
  (floats only), 0 to 255 or 0 to 65535 and reach beyond half of that range are scaled by it: they are a usual image
  stored in larger numbers. Of all others (heights, temperatures, counts) the lowest becomes black and the highest
  white. NaN and infinities are black.
- **White is zero** (TIFF) is turned round at every depth.
- **Colour profiles** (ICC) that move colours by more than 4 of 255 are applied: RGB, greys and CMYK come to sRGB,
  relative colorimetric, with black point compensation, on the model's square. Broken ones, and those for other channels
  than the image has, are passed over. CIELab comes to sRGB without one.

`decode` works in the caller's process. Strangers' files by the million are better decoded in a `Sandbox`: there a
decoder that crashes or hangs costs the one image ("decoder_crashed", "decode_timeout"), and memory is bounded.

The names are imported when they are first used: a command's `--help` needs few of them.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.images.decoding import decode, prepare
    from captionkit.images.sandbox import COUNTER, DECODE_SECONDS, DECODER, Sandbox, shared_sandbox
    from captionkit.images.types import (
        ERROR_KINDS,
        IMAGENET_MEAN,
        IMAGENET_STD,
        INTERPOLATIONS,
        Decoded,
        ImageError,
        Limits,
        Preprocessing,
    )

__all__ = [
    "COUNTER",
    "DECODER",
    "DECODE_SECONDS",
    "ERROR_KINDS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "INTERPOLATIONS",
    "Decoded",
    "ImageError",
    "Limits",
    "Preprocessing",
    "Sandbox",
    "decode",
    "prepare",
    "shared_sandbox",
]

__getattr__ = lazy_names(
    __name__,
    {
        "COUNTER": "sandbox",
        "DECODER": "sandbox",
        "DECODE_SECONDS": "sandbox",
        "Decoded": "types",
        "ERROR_KINDS": "types",
        "IMAGENET_MEAN": "types",
        "IMAGENET_STD": "types",
        "INTERPOLATIONS": "types",
        "ImageError": "types",
        "Limits": "types",
        "Preprocessing": "types",
        "Sandbox": "sandbox",
        "decode": "decoding",
        "prepare": "decoding",
        "shared_sandbox": "sandbox",
    },
)

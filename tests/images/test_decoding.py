"""Bytes → pixels: the written policy of `captionkit.images`, held picture by picture."""

from __future__ import annotations

import json
import pickle
import random
import resource
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from captionkit.images import ERROR_KINDS, Decoded, ImageError, Limits, Preprocessing, decode, prepare
from tests.support.image_zoo import Broken, Odd, broken, encode, odd, oriented, photo

SMALL = Preprocessing(size=48, resize=56)
IMAGENET = Preprocessing(size=224, resize=256)
BROKEN = broken()
ODD = odd()


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference, of 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.int16) - other).mean())


def torchvision_says(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What torchvision's own transforms make of an upright RGB image."""
    from torchvision.transforms import functional

    filters = {
        "nearest": functional.InterpolationMode.NEAREST,
        "bilinear": functional.InterpolationMode.BILINEAR,
        "bicubic": functional.InterpolationMode.BICUBIC,
        "lanczos": functional.InterpolationMode.LANCZOS,
    }
    interpolation = filters[preprocessing.interpolation]
    if preprocessing.mode == "squash":
        square = [preprocessing.size, preprocessing.size]
        return np.asarray(functional.resize(image, square, interpolation))
    sides = [preprocessing.resize] * (2 if preprocessing.mode == "squash_crop" else 1)
    resized = functional.resize(image, sides, interpolation)
    return np.asarray(functional.center_crop(resized, [preprocessing.size]))


@pytest.mark.parametrize("picture", ODD, ids=lambda picture: picture.name)
def test_odd_but_sound(picture: Odd) -> None:
    decoded = decode(picture.data, SMALL)
    assert (decoded.width, decoded.height) == picture.shows.size
    assert decoded.pixels.shape == (48, 48, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    assert difference(decoded.pixels, prepare(picture.shows, SMALL)) <= picture.tolerance


@pytest.mark.parametrize("picture", BROKEN, ids=lambda picture: picture.name)
def test_broken(picture: Broken) -> None:
    with pytest.raises(ImageError) as caught:
        decode(picture.data, SMALL, picture.limits)
    assert caught.value.kind == picture.kind
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_zoo_has_every_kind_of_failure() -> None:
    # What only a child process can be cut off for: tests/images/test_sandbox.py.
    assert {picture.kind for picture in BROKEN} == set(ERROR_KINDS) - {
        "no_such_page",
        "decoder_crashed",
        "decode_timeout",
    }


def test_errors_survive_pickling() -> None:
    with pytest.raises(ImageError) as caught:
        decode(b"", SMALL)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.kind, str(again)) == (caught.value.kind, str(caught.value))


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (257, 257), (100, 90), (1000, 31), (333, 1024)])
@pytest.mark.parametrize(
    "preprocessing",
    [
        IMAGENET,
        Preprocessing(size=224, resize=232),
        Preprocessing(size=48, resize=57, interpolation="bicubic"),
        Preprocessing(size=64, resize=64, interpolation="lanczos"),
        Preprocessing(size=96, resize=96, mode="squash"),
        Preprocessing(size=96, resize=110, mode="squash_crop"),
    ],
    ids=lambda preprocessing: f"{preprocessing.mode}{preprocessing.resize}",
)
def test_geometry_is_torchvisions(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    image = photo(*size)
    decoded = decode(encode(image, "PNG"), preprocessing)  # a PNG loses nothing on the way
    assert difference(decoded.pixels, torchvision_says(image, preprocessing)) < 0.4


@pytest.mark.parametrize("size", [(2700, 2600), (1500, 2000), (1301, 900), (700, 520)])
def test_reduced_jpegs_are_as_good_as_torchvisions(size: tuple[int, int]) -> None:
    data = encode(photo(*size), "JPEG", quality=92)
    full = torchvision_says(Image.open(BytesIO(data)).convert("RGB"), IMAGENET)
    decoded = decode(data, IMAGENET)
    assert (decoded.width, decoded.height) == size
    assert difference(decoded.pixels, full) < 1.0
    assert np.abs(decoded.pixels.astype(int) - full).max() <= 24
    # No shift: the picture moved by one pixel would be further away.
    assert difference(decoded.pixels[:, 1:], full[:, :-1]) > 2 * difference(decoded.pixels, full)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["crop", "squash", "squash_crop"])
def test_orientation_of_a_reduced_jpeg(orientation: int, mode: str) -> None:
    preprocessing = Preprocessing(size=40, resize=45, mode=mode)
    stored = photo(1001, 603)
    data = encode(stored, "JPEG", quality=95, exif=oriented(orientation))
    plain = encode(stored, "JPEG", quality=95)
    turn = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    upright = Image.open(BytesIO(plain))
    upright = upright if turn is None else upright.transpose(turn)
    decoded = decode(data, preprocessing)
    assert (decoded.width, decoded.height) == upright.size
    assert difference(decoded.pixels, torchvision_says(upright, preprocessing)) < 2.0


def test_nearest_takes_single_pixels() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    nearest = Preprocessing(size=32, resize=32, interpolation="nearest")
    pixels = decode(encode(Image.fromarray(stripes), "JPEG", quality=100), nearest).pixels
    assert ((pixels < 16) | (pixels > 239)).all()


def test_a_line_does_not_become_a_mountain() -> None:
    data = encode(Image.new("RGB", (60_000, 1), (10, 200, 30)), "PNG")
    decode(encode(photo(300, 300), "PNG"), IMAGENET)  # whatever the first picture costs is paid
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (decode(data, IMAGENET).pixels == (10, 200, 30)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB; whole it would be 12 GB


def test_prepare_takes_open_images() -> None:
    image = photo(300, 200)
    assert (prepare(image, IMAGENET) == decode(encode(image, "PNG"), IMAGENET).pixels).all()
    turned = Image.open(BytesIO(encode(image, "PNG", exif=oriented(6))))
    assert difference(prepare(turned, SMALL), prepare(image.transpose(Image.Transpose.ROTATE_270), SMALL)) < 1
    cut = Image.open(BytesIO(encode(image, "JPEG")[:2000]))
    with pytest.raises(ImageError) as caught:
        prepare(cut, SMALL)
    assert caught.value.kind == "truncated"


def test_threads_do_not_disturb_each_other() -> None:
    expected = [decode(picture.data, SMALL).pixels for picture in ODD]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for again, once in zip(pool.map(lambda p: decode(p.data, SMALL), ODD), expected, strict=True):
                assert (again.pixels == once).all()


def test_pillows_warnings_stay_inside_and_all_others_pass() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # says five entries, has one
    data = encode(photo(60, 40), "JPEG", exif=exif)
    stop = threading.Event()

    def decode_on() -> None:
        while not stop.is_set():
            decode(data, SMALL)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(data, SMALL)
        assert caught == []
        worker = threading.Thread(target=decode_on)
        worker.start()
        for number in range(200):
            warnings.warn(f"mine {number}", UserWarning, stacklevel=1)
        stop.set()
        worker.join()
    assert [str(warning.message) for warning in caught] == [f"mine {number}" for number in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as `python -W error` would have it
        decode(data, SMALL)


def test_nothing_global_is_changed_in_pillow() -> None:
    from PIL import ImageFile

    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.slow
def test_limits_are_the_callers_not_pillows() -> None:
    data = encode(Image.new("1", (20_000, 9_500), 1), "PNG")  # 190 million: Image.open would refuse it
    assert (decode(data, SMALL).pixels == 255).all()
    with pytest.raises(ImageError) as caught:
        decode(data, SMALL, Limits(max_pixels=100_000_000))
    assert caught.value.kind == "too_many_pixels"
    assert "20000 × 9500" in str(caught.value)


def test_running_out_of_memory_fails_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.core, "new", no_memory)
    with pytest.raises(ImageError) as caught:
        decode(encode(photo(30, 30), "PNG"), SMALL)
    assert caught.value.kind == "too_many_pixels"


def test_preprocessing_goes_through_json() -> None:
    there = Preprocessing(size=299, resize=342, interpolation="bicubic", mean=(0.5, 0.5, 0.5))
    assert Preprocessing.from_json(json.loads(json.dumps(there.to_json()))) == there
    for wrong in (
        {"size": 224, "resize": 200},
        {"size": 0, "resize": 0},
        {"size": 224, "resize": 256, "interpolation": "magic"},
        {"size": 224, "resize": 256, "mode": "stretch"},
        {"size": 224, "resize": 256, "std": [1.0, 0.0, 1.0]},
        {"size": 224},
        {"size": 224, "resize": 256, "colour": "red"},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            Preprocessing.from_json(wrong)


def test_several_geometries_travel_as_one() -> None:
    crop, squash = Preprocessing(20, 30, std=(1.0,) * 3), Preprocessing(31, 50, "lanczos", "squash")
    both = Preprocessing.together([crop, squash, Preprocessing(20, 30), Preprocessing(31, 99, "lanczos", "squash")])
    assert (both.size, len(both.each)) == (37, 2)
    assert Preprocessing.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert Preprocessing.together([crop, Preprocessing(20, 30)]) == Preprocessing(20, 30)
    image = photo(90, 60)
    for pixels in (decode(encode(image, "PNG"), both).pixels, prepare(image, both)):
        assert pixels.shape == (37, 37, 3)
        for one in (crop, squash):
            square = pixels.reshape(-1)[both.square(one)].reshape(one.size, one.size, 3)
            assert np.array_equal(square, prepare(image, one))
    with pytest.raises(ValueError, match="is not among"):
        both.square(Preprocessing(20, 40))
    with pytest.raises(ValueError, match="2 squares do not fit into 36 × 36"):
        Preprocessing.from_json(both.to_json() | {"size": 36})


def attempt(data: bytes) -> Decoded | ImageError:
    """Decodes; anything but a picture of the right shape or an ImageError (whose kind is checked as it is
    made) fails the test.
    """
    try:
        decoded = decode(data, SMALL, Limits(max_pixels=4_000_000))
    except ImageError as error:
        return error
    assert decoded.pixels.shape == (48, 48, 3)
    assert decoded.pixels.dtype == np.uint8
    return decoded


SEEDS = [picture.data for picture in ODD if len(picture.data) < 60_000]


@given(st.binary(max_size=400), st.sampled_from([b"", *{data[:12] for data in SEEDS}]))
def test_random_bytes_raise_nothing_else(noise: bytes, magic: bytes) -> None:
    attempt(magic + noise)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A file after an accident: flipped bits, lost, doubled or foreign bytes, most near its header."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(min(len(mutant), rng.choice([40, 200, len(mutant)])))
        what = rng.random()
        if what < 0.6:
            mutant[at] = rng.choice([0, 255, rng.randrange(256), mutant[at] ^ 1 << rng.randrange(8)])
        elif what < 0.75:
            del mutant[at : at + rng.randrange(1, 20)]
        elif what < 0.9:
            mutant[at:at] = rng.randbytes(rng.randrange(1, 8))
        else:
            other = rng.randrange(len(mutant))
            mutant[at : at + 8] = mutant[other : other + 8]
        if len(mutant) < 4:
            break
    return bytes(mutant)


@settings(deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_damaged_files_raise_nothing_else(data: bytes, rng: random.Random) -> None:
    attempt(mutate(data, rng))


@pytest.mark.slow
def test_many_damaged_files_raise_nothing_else() -> None:
    rng = random.Random(0)
    for _ in range(20_000):
        attempt(mutate(rng.choice(SEEDS), rng))


@pytest.mark.parametrize("name", ["plain.jpg", "progressive.jpg", "plain.png", "palette.png", "animated.gif"])
def test_cut_files_are_never_half_pictures(name: str) -> None:
    data = next(picture.data for picture in ODD if picture.name == name)
    whole = decode(data, SMALL).pixels
    for length in range(20, len(data), 37):
        outcome = attempt(data[:length])
        if isinstance(outcome, ImageError):
            assert outcome.kind == "truncated"
        else:
            assert (outcome.pixels == whole).all()


@pytest.mark.slow
def test_cut_files_of_every_format_are_never_half_pictures() -> None:
    for picture in ODD:
        if len(picture.data) > 20_000:
            continue
        whole = decode(picture.data, SMALL).pixels
        for length in range(20, len(picture.data), 97):
            outcome = attempt(picture.data[:length])
            if isinstance(outcome, ImageError):
                assert outcome.kind in ("truncated", "unsupported_format", "corrupt"), picture.name
            else:
                assert (outcome.pixels == whole).all(), picture.name


def test_a_plain_jpeg_pays_for_no_other_format() -> None:
    script = (
        "import sys; sys.path.insert(0, '')\n"
        "from captionkit.images import Preprocessing, decode\n"
        "decode(sys.stdin.buffer.read(), Preprocessing(size=48, resize=48))\n"
        "print(*sys.modules)\n"
    )
    jpeg = encode(photo(96, 64), "JPEG")
    done = subprocess.run([sys.executable, "-c", script], input=jpeg, capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    others = ("heif", "jpegxl", "photoshop", "drawings", "dicom", "documents")
    libraries = ["PIL.ImageCms", "imagecodecs", "pillow_heif", "pydicom", "pypdfium2", "rawpy", "tifffile"]
    assert loaded.isdisjoint({f"captionkit.images.{name}" for name in others})
    assert loaded.isdisjoint(libraries)

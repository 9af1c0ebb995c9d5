"""Decoding in a child process: the same pictures as without, and one row lost to whatever a decoder does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captionkit.images import Decoded, ImageError, Limits, Preprocessing, Sandbox, decode, shared_sandbox
from captionkit.images import sandbox as sandbox_module
from captionkit.images.decoder_process import CHANNELS, DecoderProcess
from captionkit.images.decoder_worker import BYTES_PER_PIXEL, PixelBudget, memory_limit
from tests.support import hostile_decoder as hostile
from tests.support.image_zoo import broken, encode, odd, photo

SMALL = Preprocessing(size=48, resize=56)
# So little that a hog is at its end soon; enough for these pictures.
TIGHT = Limits(max_bytes=2**20, max_pixels=1_000_000)
GOOD = [encode(photo(90 + n, 70, seed=n), "JPEG") for n in range(12)]

Outcome = Decoded | ImageError


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox whose decoder does as its files say."""
    with Sandbox(SMALL, TIGHT, threads=3, seconds=60, decoder=hostile.NAME) as sandbox:
        yield sandbox


def alike(one: Outcome, data: bytes, limits: Limits = TIGHT) -> bool:
    """Whether this outcome is what `decode` makes of the bytes in this process."""
    try:
        other = decode(data, SMALL, limits)
    except ImageError as err:
        return isinstance(one, ImageError) and (one.kind, str(one)) == (err.kind, str(err))
    return isinstance(one, Decoded) and (one.pixels == other.pixels).all() and one.width == other.width


def kinds(outcomes: list[Outcome]) -> dict[int, str]:
    return {n: outcome.kind for n, outcome in enumerate(outcomes) if isinstance(outcome, ImageError)}


def gone(pid: int) -> bool:
    """Whether a process has ended (perhaps nobody has asked for its exit code yet)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < until, "the child lives on"
        time.sleep(0.02)


def test_every_picture_is_what_it_is_without() -> None:
    files = [picture.data for picture in broken()] + [picture.data for picture in odd()]
    with Sandbox(SMALL, threads=2) as sandbox:
        outcomes = sandbox.decode_many(files)
        assert all(alike(outcome, data, Limits()) for outcome, data in zip(outcomes, files, strict=True))
        assert sandbox.decode_many([]) == []
        assert sum(outcome.seconds for outcome in outcomes) > 0
        decoded = next(outcome for outcome in outcomes if isinstance(outcome, Decoded))
        assert decoded.pixels.flags.c_contiguous
        assert decoded.pixels.flags.writeable


@pytest.mark.parametrize(
    ("mark", "said"),
    [(hostile.ABORT, "SIGABRT"), (hostile.CRASH, "SIGSEGV"), (hostile.KILLED, "memory"), (hostile.EXIT, "exit code 3")],
)
def test_a_crash_costs_one_picture(box: Sandbox, mark: bytes, said: str) -> None:
    files = [*GOOD[:7], GOOD[0] + mark, *GOOD[7:]]
    assert isinstance(box.decode_many(GOOD[:1])[0], Decoded)
    before = box.pid
    outcomes = box.decode_many(files)
    assert kinds(outcomes) == {7: "decoder_crashed"}
    assert said in str(outcomes[7])
    assert all(alike(outcome, data) for n, (outcome, data) in enumerate(zip(outcomes, files, strict=True)) if n != 7)
    assert before is not None
    assert gone(before)
    assert all(alike(outcome, data) for outcome, data in zip(box.decode_many(GOOD), GOOD, strict=True))
    assert box.pid != before


def test_a_hanging_decoder_is_cut_off() -> None:
    files = [*GOOD[:4], GOOD[0] + hostile.HANG, *GOOD[4:], GOOD[0] + hostile.FREEZE]
    with Sandbox(SMALL, TIGHT, threads=3, seconds=2.5, decoder=hostile.NAME) as sandbox:
        outcomes = sandbox.decode_many(files)
    assert kinds(outcomes) == {4: "decode_timeout", 13: "decode_timeout"}
    assert "2.5 s" in str(outcomes[4])
    assert alike(outcomes[3], GOOD[3])
    assert alike(outcomes[12], GOOD[11])


def test_a_memory_hog_costs_one_picture(box: Sandbox) -> None:
    files = [*GOOD[:5], GOOD[0] + hostile.HOG, *GOOD[5:], GOOD[0] + hostile.HOG]
    outcomes = box.decode_many(files)
    assert kinds(outcomes) == {5: "too_many_pixels", 13: "too_many_pixels"}
    assert "memory" in str(outcomes[5])
    assert alike(outcomes[12], GOOD[11])


def test_everything_at_once_in_one_batch(box: Sandbox) -> None:
    bad = {2: hostile.CRASH, 3: hostile.HOG, 5: hostile.ABORT, 8: hostile.RAISE}
    files = [data + bad.get(n, b"") for n, data in enumerate(GOOD)]
    files[10] = b"no picture"
    outcomes = box.decode_many(files)
    assert kinds(outcomes) == {
        2: "decoder_crashed", 3: "too_many_pixels", 5: "decoder_crashed", 8: "decoder_crashed", 10: "not_an_image",
    }  # fmt: skip
    assert str(outcomes[8]) == "the decoder failed: LookupError: no such picture"


def test_many_threads_share_it(box: Sandbox) -> None:
    marked = [GOOD[0] + hostile.ABORT, *GOOD]
    work = [GOOD, marked, GOOD[::-1], GOOD, marked, GOOD] * 2
    with ThreadPoolExecutor(6) as pool:
        for files, outcomes in zip(work, pool.map(box.decode_many, work), strict=True):
            assert kinds(outcomes) == ({0: "decoder_crashed"} if files is marked else {})
            good = zip(outcomes, files, strict=True)
            assert all(alike(outcome, data) for outcome, data in good if isinstance(outcome, Decoded))


def test_many_batches_keep_their_order(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_BATCH_BYTES", 2 * len(GOOD[0]))
    monkeypatch.setattr(sandbox_module, "_BATCH_IMAGES", 3)
    files = [b"", *GOOD, bytes(TIGHT.max_bytes + 1), *GOOD, b"tiny", b"tiny"]
    outcomes = box.decode_many(files)
    assert all(alike(outcome, data) for outcome, data in zip(outcomes, files, strict=True))
    assert kinds(outcomes) == {0: "empty", 13: "too_many_bytes", 26: "not_an_image", 27: "not_an_image"}


def test_a_child_killed_between_batches_is_replaced(box: Sandbox) -> None:
    box.decode_many(GOOD[:1])
    assert box.pid is not None
    os.kill(box.pid, signal.SIGKILL)
    assert kinds(box.decode_many(GOOD)) == {}


def test_ctrl_c_is_for_the_parent(box: Sandbox) -> None:
    box.decode_many(GOOD[:1])
    before = box.pid
    assert before is not None
    os.kill(before, signal.SIGINT)
    assert kinds(box.decode_many(GOOD)) == {}
    assert box.pid == before
    assert os.getsid(before) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_few_descriptors_and_bounded_memory(box: Sandbox) -> None:
    box.close()
    before = len(os.listdir("/proc/self/fd"))
    box.decode_many(GOOD)
    assert len(os.listdir("/proc/self/fd")) - before == 2 * CHANNELS + 1
    assert len(os.listdir(f"/proc/{box.pid}/fd")) <= 2 * CHANNELS + 4
    limits = Path(f"/proc/{box.pid}/limits").read_text().splitlines()
    (held,) = (int(line.split()[3]) for line in limits if line.startswith("Max data size"))
    more = memory_limit(TIGHT, 3)
    assert more >= TIGHT.max_pixels * BYTES_PER_PIXEL
    assert more < held < more + 2**29
    box.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_large_picture_took_goes_back() -> None:
    large = encode(Image.new("RGB", (5000, 4000)), "PNG", compress_level=1)
    with Sandbox(SMALL, threads=1) as sandbox:
        (decoded,) = sandbox.decode_many([large])
        assert isinstance(decoded, Decoded)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{sandbox.pid}/status").read_text().splitlines())
    peak, now = (int(status[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    assert peak > 80_000  # kB
    assert now < peak - 60_000


def test_floats_are_stretched_over_the_whole_picture() -> None:
    values = np.linspace(-5, 20, 1100 * 1000, dtype=np.float32).reshape(1100, 1000)  # more than one band
    nearest = Preprocessing(size=1000, resize=1000, interpolation="nearest")
    pixels = decode(encode(Image.fromarray(values), "TIFF"), nearest).pixels
    expected = np.round((values.astype(np.float64) + 5) * (255 / 25))[50:1050]
    assert (pixels == expected[..., None]).all()


_ORPHAN = """
import sys, threading, time
from captionkit.images import Limits, Preprocessing, Sandbox
from tests.support import hostile_decoder as hostile
sandbox = Sandbox(Preprocessing(size=8, resize=8), Limits(), 2, 600, hostile.NAME)
sandbox.decode_many([b"no picture"])
print(sandbox.pid, flush=True)
sandbox.decode_many([hostile.FREEZE])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a frozen child notices nothing")
def test_it_ends_with_its_parent_even_when_frozen() -> None:
    with subprocess.Popen([sys.executable, "-c", _ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    wait_for_end(child)


def test_it_ends_when_its_orders_do() -> None:
    child = DecoderProcess(SMALL, TIGHT, 1, hostile.NAME)
    child.decode(0, GOOD[:1], 60)
    process = child._process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    child.close()


_FORKED = """
import os
from captionkit.images import Preprocessing, shared_sandbox
preprocessing = Preprocessing(size=8, resize=8)
sandbox = shared_sandbox(preprocessing)
assert sandbox.decode_many([b"no picture"])[0].kind == "not_an_image"
if not (forked := os.fork()):
    other = shared_sandbox(preprocessing)
    assert other.decode_many([b"no picture"])[0].kind == "not_an_image"
    other.close()
    os._exit(17 if other is not sandbox else 1)
before = sandbox.pid
assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 17
assert sandbox.decode_many([b"no picture"])[0].kind == "not_an_image"
assert sandbox.pid == before
"""


def test_a_forked_process_has_its_own() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKED], check=False).returncode == 0


def test_a_child_that_cannot_start_is_nobodys_fault() -> None:
    with Sandbox(SMALL, decoder="tests.no_such_module:decode") as sandbox, pytest.raises(RuntimeError, match="start"):
        sandbox.decode_many(GOOD)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"seconds": 0}])
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="threads"):
        Sandbox(SMALL, **wrong)


def test_one_sandbox_for_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_sandboxes", type(sandbox_module._sandboxes)())
    first = shared_sandbox(SMALL, TIGHT, 1)
    first.decode_many(GOOD[:1])
    pid = first.pid
    assert pid is not None
    assert shared_sandbox(SMALL, TIGHT, 1) is first
    shared_sandbox(SMALL, TIGHT, 2)
    assert shared_sandbox(SMALL, TIGHT, 1) is first
    assert not gone(pid)
    shared_sandbox(SMALL, TIGHT, 3)  # in the place of that with 2 threads
    assert shared_sandbox(SMALL, TIGHT, 1) is first
    assert not gone(pid)
    shared_sandbox(SMALL, TIGHT, 2)
    shared_sandbox(SMALL, TIGHT, 3)
    assert gone(pid)
    assert shared_sandbox(SMALL, TIGHT, 1) is not first


def test_large_pictures_wait_for_each_other() -> None:
    budget = PixelBudget(100)
    started, finish = threading.Event(), threading.Event()
    seen: list[str] = []

    def decode_one(name: str, pixels: int) -> None:
        with budget.admit(pixels):
            seen.append(name)
            started.set()
            finish.wait(60)

    with ThreadPoolExecutor(3) as pool:
        large = pool.submit(decode_one, "larger than all", 1000)
        started.wait(60)
        after = [pool.submit(decode_one, "small", 40), pool.submit(decode_one, "small", 60)]
        assert seen == ["larger than all"]
        finish.set()
        for future in (large, *after):
            future.result(60)
    assert seen == ["larger than all", "small", "small"]


def test_what_decoding_asks_room_for() -> None:
    asked: list[int] = []

    class Room:
        def __init__(self, pixels: int) -> None:
            asked.append(pixels)

        def __enter__(self) -> None:
            asked.append(0)

        def __exit__(self, *_: object) -> None:
            asked.append(-1)

    picture = photo(480, 320)
    baseline, progressive = encode(picture, "JPEG"), encode(picture, "JPEG", progressive=True)
    for data in (encode(picture, "PNG"), encode(picture, "WEBP"), progressive, baseline):
        decode(data, SMALL, Limits(), Room)
    whole = 480 * 320
    assert asked == [whole, 0, -1, whole, 0, -1, whole, 0, -1, whole // 16, 0, -1]

"""Ranges of keys that are listed side by side: no key is lost, none comes twice, and the order is that of keys."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captionkit.storage import Storage, StorageError, StorageOptions
from captionkit.storage import s3 as s3_module
from captionkit.storage.key_ranges import FAN_OUT, SCHEMA, KeyRange, Part, divide, in_order
from captionkit.storage.s3 import S3Backend
from captionkit.storage.spread import Spread
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import S3Server

Few = st.text("ab0/", min_size=1, max_size=6)
Any_ = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
SETS = st.sets(
    st.one_of(
        Few,
        Any_,
        st.integers(0, 999).map(lambda number: f"{number:05d}.jpg"),
        st.integers(0, 40).map(lambda length: "a" * length + "b"),
        st.sampled_from(["\ud7ffx", "\ue000", "\U0010ffff", "\U0010ffff\U0010ffff", "z\U0010ffff"]),
    ),
    max_size=60,
)


class Keys:
    """A server's view of keys: pages of two, and the first behind a text."""

    def __init__(self, keys: set[str]) -> None:
        self.all = sorted(keys)
        self.probes = 0

    def behind(self, text: str) -> list[str]:
        return self.all[bisect_right(self.all, text) :]

    def first_after(self, text: str) -> str | None:
        text.encode()  # no half of a surrogate pair can be asked for
        self.probes += 1
        return next(iter(self.behind(text)), None)

    def part(self, keys: KeyRange) -> Part:
        within = [key for key in self.behind(keys.after) if keys.until is None or key <= keys.until]
        page, more = within[:2], within[2:]
        batch = pa.RecordBatch.from_arrays(
            [pa.array(page, pa.string()), pa.array([1] * len(page)), pa.array(page)], schema=SCHEMA
        )
        return Part(batch, divide(KeyRange(page[-1], keys.until), 0, self.first_after) if more else ())


@settings(max_examples=100, deadline=None)
@given(SETS)
@example({"a", "b"} | {f"c{number:03d}" for number in range(50)})
@example({"z" * 900 + str(number) for number in range(9)})
@example({"x" * length for length in range(1, 40)})
def test_every_key_comes_once_and_in_order_however_keys_are_distributed(keys: set[str]) -> None:
    server = Keys(keys)
    with ThreadPoolExecutor(4) as pool:
        batches = in_order((KeyRange(""),), lambda each: pool.submit(server.part, each), 4)
        assert [key for batch in batches for key in batch.column(0).to_pylist()] == server.all


@settings(max_examples=100, deadline=None)
@given(SETS.filter(bool), st.data())
def test_ranges_have_no_gaps_and_end_where_the_whole_does(keys: set[str], data: st.DataObject) -> None:
    server = Keys(keys)
    last = data.draw(st.sampled_from(server.all))
    ends = [None, f"{last}~", *(key for key in server.all if key > last)]
    until = data.draw(st.sampled_from(ends))
    ranges = divide(KeyRange(last, until), 0, server.first_after)
    assert 1 <= len(ranges) <= FAN_OUT
    assert ranges[0].after == last
    assert [one.until for one in ranges] == [*(one.after for one in ranges[1:]), until]
    assert all(one.after < one.until for one in ranges if one.until is not None)
    assert server.probes <= FAN_OUT + 2 * 11


def test_keys_that_count_up_are_divided_evenly() -> None:
    server = Keys({f"in/{number:06d}.jpg" for number in range(10_000)})
    ranges = divide(KeyRange("in/000063.jpg"), 3, server.first_after)
    assert [one.after for one in ranges[1:]] == [f"in/00{digit}" for digit in range(1, 10)]
    (first, *_), rest = divide(KeyRange("in/000063.jpg", "in/001"), 3, server.first_after), ranges[-1]
    assert (first.after, first.until) == ("in/000063.jpg", "in/0001")
    assert rest.until is None


def test_a_range_that_comes_late_keeps_its_place_and_holds_few_up() -> None:
    """Two tasks at a time; what the first leaves is listed before what comes behind it."""
    asked: list[str] = []
    server = Keys({f"{a}{b}" for a in "abcd" for b in "123456"})
    with ThreadPoolExecutor(1) as pool:

        def submit(keys: KeyRange) -> Any:
            asked.append(keys.after)
            return pool.submit(server.part, keys)

        ranges = tuple(KeyRange(after, until) for after, until in (("", "b"), ("b", "c"), ("c", None)))
        assert sum(len(batch) for batch in in_order(ranges, submit, 2)) == 24
    assert asked.index("c") > 3  # not before room is there


# Against a real server


@pytest.fixture
def small_pages(s3: S3Server) -> Iterator[FaultProxy]:
    """The server behind a proxy that asks for pages of five keys, two to a part."""
    with fault_proxy(s3.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        call = s3_module.S3Backend.call

        def small(self: S3Backend, address: str, method: str, **arguments: Any) -> Any:
            return call(self, address, method, **{"MaxKeys": 5} | arguments)

        patch.setattr(s3_module.S3Backend, "call", small)
        patch.setattr(s3_module, "FIRST_PAGES", 1)
        patch.setattr(s3_module, "PART_PAGES", 2)
        yield proxy


def listed(proxy: FaultProxy, bucket: str, place: str, **options: Any) -> list[str]:
    storage = Storage(StorageOptions(endpoint_url=proxy.endpoint, **options))
    address = f"s3://{bucket}/{place}"
    entries = storage.glob(address) if "*" in place else storage.list(address)
    return [entry.uri.removeprefix(f"s3://{bucket}/") for entry in entries]


STRANGE = [
    *(f"in/{number:05d}.jpg" for number in range(0, 3000, 41)),
    *(f"in/{letter}" for letter in "az09~ +%&\u00e9\u6f22\ud7ff\U0001d11e"),
    *("in/" + "deep/" * depth + "x.jpg" for depth in range(1, 25)),
    "in/1",
    "in/10",
    "in/100",
    "in/" + "l" * 900,
]


def fill(s3: S3Server, bucket: str, keys: list[str]) -> None:
    client = s3.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b"x"), [*keys, "im/a", "io/z"]))


def test_a_real_server_gives_each_key_once_and_in_order(s3: S3Server, bucket: str, small_pages: FaultProxy) -> None:
    fill(s3, bucket, STRANGE)
    assert listed(small_pages, bucket, "in/") == sorted(STRANGE)
    assert len([one for one in small_pages.requests if "start-after" in one and "max-keys=5" in one]) > 5  # ranges
    jpegs = [key for key in STRANGE if key.endswith(".jpg") and key.count("/") == 1]
    assert listed(small_pages, bucket, "in/*.jpg") == sorted(jpegs)


def test_many_are_asked_at_once(s3: S3Server, bucket: str, small_pages: FaultProxy) -> None:
    """Told by the requests that are open at a time, behind a network that takes its time."""
    keys = [f"in/{number:04d}.jpg" for number in range(200)]
    fill(s3, bucket, keys)
    small_pages.fault("latency", "list-type=2", seconds=0.03)
    assert listed(small_pages, bucket, "in/") == keys
    assert 4 <= small_pages.at_once <= 2 * s3_module.LIST_THREADS  # some are about to close


@pytest.mark.parametrize("refuses", [False, True])
def test_a_server_that_knows_no_place_to_begin_at_is_listed_page_by_page(
    s3: S3Server, bucket: str, small_pages: FaultProxy, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    fill(s3, bucket, STRANGE)
    if refuses:
        small_pages.fault("status", "start-after", status=501, code="NotImplemented")
    else:
        call = s3_module.S3Backend.call

        def deaf(self: S3Backend, address: str, method: str, StartAfter: str = "", **arguments: Any) -> Any:
            return call(self, address, method, **arguments)

        monkeypatch.setattr(s3_module.S3Backend, "call", deaf)
    assert listed(small_pages, bucket, "in/", retries=0) == sorted(STRANGE)


def test_a_directory_bucket_is_never_asked_for_a_range(
    s3: S3Server, bucket: str, small_pages: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name's end: botocore would ask for a session with one of the usual name, which no server here gives."""
    monkeypatch.setattr(s3_module, "DIRECTORY_BUCKET", bucket[-8:])
    keys = [f"in/{number:02}.jpg" for number in range(20)]
    fill(s3, bucket, keys)
    assert listed(small_pages, bucket, "in/") == keys
    assert not [one for one in small_pages.requests if "start-after" in one]


def test_a_fault_in_any_range_ends_the_listing_and_a_passing_one_does_not(
    s3: S3Server, bucket: str, small_pages: FaultProxy
) -> None:
    fill(s3, bucket, [f"in/{number:04d}.jpg" for number in range(100)])
    small_pages.fault("status", "max-keys=5.*start-after", status=500, times=1)
    assert len(listed(small_pages, bucket, "in/")) == 100
    assert small_pages.faulted == 1
    small_pages.clear()
    small_pages.fault("status", "max-keys=5.*(start-after|continuation)", status=403, code="AccessDenied")
    with pytest.raises(StorageError):
        listed(small_pages, bucket, "in/")


def test_spread_answers_in_order_and_holds_few_at_a_time() -> None:
    taken: list[int] = []

    def arguments() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(3) as pool:
        answers = Spread(pool, 3).map(lambda number: number * 2, arguments())
        assert next(answers) == 0
        assert len(taken) == 3
        assert list(answers) == [number * 2 for number in range(1, 20)]

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.inputs.ids import IdMap, IdSet, address_hashes, image_id, image_ids

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_image_id_is_the_same_for_ever() -> None:
    # Tables of earlier releases are joined on these: a change of the hash would caption every archive again.
    assert image_id("s3://archive/2014/a.jpg", "d41d8cd9") == -8782514990072600659
    assert image_id("", "") == -7712737833812065720


def test_address_and_version_do_not_run_into_each_other() -> None:
    assert image_id("ab", "c") != image_id("a", "bc")


@given(st.text(), st.text())
def test_image_id_is_a_signed_64_bit_integer(uri: str, version: str) -> None:
    assert -(2**63) <= image_id(uri, version) < 2**63
    assert image_id(uri, version) == image_id(uri, version)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=20))
def test_whole_columns_have_the_same_ids(names: list[tuple[str, str]]) -> None:
    uris, versions = (pa.array([each[at] for each in names], pa.string()) for at in (0, 1))
    assert image_ids(uris, versions).tolist() == [image_id(*each) for each in names]
    assert image_ids(uris, "v1").tolist() == [image_id(uri, "v1") for uri, _ in names]


def test_address_hashes_tell_addresses_apart() -> None:
    uris = pa.array(["a", "b", "a", "", "b\0"])
    hashes = address_hashes(uris).tolist()
    assert hashes[0] == hashes[2]
    assert len(set(hashes)) == 4
    assert address_hashes(uris.slice(2)).tolist() == hashes[2:]


def test_a_set_of_several_arrays_has_each_id_once() -> None:
    ours = IdSet(iter([np.array([3, 1, 3]), np.array([1, 2])]))
    assert len(ours) == 3
    assert ours.contains(np.array([4, 3, 2, 1, 0])).tolist() == [False, True, True, True, False]
    assert len(IdSet()) == 0


@given(st.lists(st.lists(INT64, max_size=40), max_size=12))
def test_id_set_agrees_with_a_python_set(chunks: list[list[int]]) -> None:
    ours, theirs = IdSet(), set[int]()
    for chunk in chunks:
        expected = []
        for number in chunk:
            expected.append(number not in theirs)
            theirs.add(number)
        assert ours.add(np.array(chunk, np.int64)).tolist() == expected
        assert len(ours) == len(theirs)
    probe = np.array([*sorted(theirs), 0, 1, 2**62], np.int64)
    assert ours.contains(probe).tolist() == [int(number) in theirs for number in probe]


def test_id_set_keeps_few_arrays() -> None:
    ours = IdSet()
    for start in range(0, 100_000, 1000):
        ours.add(np.arange(start, start + 1000))
    assert len(ours) == 100_000
    assert len(ours._runs) <= 8  # else every look-up would search a hundred arrays


def test_a_map_keeps_the_first_value_of_each_id() -> None:
    random = np.random.default_rng(3)
    kept: dict[int, int] = {}
    found = IdMap()
    for _ in range(40):
        ids, values = random.integers(-300, 300, 50), random.integers(0, 10**9, 50)
        wanted = [kept.setdefault(key, value) for key, value in zip(ids.tolist(), values.tolist(), strict=True)]
        assert found.setdefault(ids, values).tolist() == wanted
    assert found.setdefault(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []

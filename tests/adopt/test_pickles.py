"""The reader of pickles: as `pickle` itself on what it reads, and it runs nothing."""

from __future__ import annotations

import argparse
import collections
import pickle
import struct
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionkit.adopt.pickles import CutError, Name, PickleError, PickleLimits, Record, read_pickle

PROTOCOLS = range(6)
REAL = Path(__file__).parents[3] / "shared" / "captioner-files"


class Vocabulary:
    def __init__(self) -> None:
        self.word2idx = {"<pad>": 0, "café": 1}
        self.idx = 2


class Words(dict):  # type: ignore[type-arg]
    pass


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(0, 9999), inner),
    max_leaves=30,
)


@settings(deadline=None, max_examples=100)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert read_pickle(data) == (value, len(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_is_a_record_of_its_attributes(protocol: int) -> None:
    record, _ = read_pickle(pickle.dumps(Vocabulary(), protocol))
    assert isinstance(record, Record)
    assert record.kind == Name(__name__, "Vocabulary")
    assert record.attributes == {"word2idx": {"<pad>": 0, "café": 1}, "idx": 2}
    words, _ = read_pickle(pickle.dumps(Words(a=1), protocol))
    assert words.entries == {"a": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_classes_of_captioners_files_are_read(protocol: int) -> None:
    value = {
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "default": collections.defaultdict(int, {"a": 1}),
        "counter": collections.Counter("aab"),
        "array": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "scalar": np.int64(7),
        "word": np.str_("dog"),
        "set": {"x"},
        "bytes": b"\0\xff",
        "empty": b"",
    }
    found, _ = read_pickle(pickle.dumps(value, protocol))
    assert list(found["ordered"].items()) == [("b", 1), ("a", 2)]
    assert (found["default"], found["counter"]) == ({"a": 1}, {"a": 2, "b": 1})
    np.testing.assert_array_equal(found["array"], value["array"])  # type: ignore[call-overload]
    assert (found["scalar"], found["word"], found["set"]) == (7, "dog", ["x"])
    assert (found["bytes"], found["empty"]) == (b"\0\xff", b"")
    options, _ = read_pickle(pickle.dumps(argparse.Namespace(rnn_size=512), protocol))
    assert options.attributes == {"rnn_size": 512}


def test_python_2_text_is_read_as_latin_1() -> None:
    assert read_pickle(b"S'caf\xe9 \\n'\np0\n.")[0] == "café \n"
    assert read_pickle(b"U\x04caf\xe9.")[0] == "café"
    old_style = b"(i__main__\nVocabulary\np0\n(dp1\nS'idx'\np2\nI5\nsb."
    assert read_pickle(old_style)[0].attributes == {"idx": 5}
    new_style = b"ccopy_reg\n_reconstructor\n(c__main__\nVocabulary\nc__builtin__\nobject\nNtR(dS'idx'\nI5\nsb."
    assert read_pickle(new_style)[0].attributes == {"idx": 5}


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (Attack.target, "w"))

    target = ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_would_be_called_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    Attack.target = str(tmp_path / "made")
    with pytest.raises(PickleError, match=r"would call (io|_io)\.open"):
        read_pickle(pickle.dumps({"a": Attack()}, protocol))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        b"c__builtin__\nbytes\n(I9\ntR.",
    ],
)
def test_no_spelling_of_a_call_is_made(data: bytes) -> None:
    with pytest.raises(PickleError, match="would call"):
        read_pickle(data)


def test_a_class_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("authors_code")
    module.Vocabulary = type("Vocabulary", (), {"__module__": "authors_code"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "authors_code", module)
    data = pickle.dumps(module.Vocabulary(), 2)
    monkeypatch.delitem(sys.modules, "authors_code")
    assert str(read_pickle(data)[0].kind) == "authors_code.Vocabulary"
    assert "authors_code" not in sys.modules


def test_a_function_may_be_named_and_is_not_called() -> None:
    assert read_pickle(b"ctensorflow.keras\npreprocess_input\n.")[0] == Name("tensorflow.keras", "preprocess_input")


def test_every_cut_pickle_is_refused() -> None:
    data = pickle.dumps({"word2idx": {"a": 1}, "array": np.ones(3)}, 4)
    for length in range(len(data)):
        with pytest.raises(PickleError):
            read_pickle(data[:length])
    with pytest.raises(CutError, match="needs at least"):
        read_pickle(b"\x8e" + struct.pack("<Q", 2**62))


SMALL = PickleLimits(objects=100_000, seconds=10, nbytes=2**20)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"]" * 200_000, "more than 100,000 values"),
        (b"]q\x00" + b"0]h\x00aq\x00" * 1_000 + b".", "deep"),
        (b"(" + b"I1\n" * 50_000 + b"lp0\n" + b"cbuiltins\nset\n(g0\ntR0" * 9 + b".", "more than 100,000 values"),
        (b"X\x00\x00\x08\x00" + b"a" * 2**19 + b"q\x000" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR0" * 3
         + b"N.", "bytes"),
        (b"L" + b"9" * 100_000 + b"L\n.", "thousand digits"),
        (b"}I99999999999999999999\nNs.", "too large a number"),
    ],
)  # fmt: skip
def test_a_pickle_cannot_eat_the_machine(data: bytes, complaint: str) -> None:
    with pytest.raises(PickleError, match=complaint):
        read_pickle(data, limits=SMALL)


def test_nested_references_cost_no_more_than_their_bytes() -> None:
    """2 to the power of 150 leaves, were they written out."""
    bomb = b"]q\x00" + b"0]q\x01(h\x00h\x00e0h\x01q\x00" * 150 + b"."
    value, _ = read_pickle(bomb)
    assert len(value) == 2


def test_a_list_in_itself_is_read() -> None:
    value, _ = read_pickle(b"]q\x00h\x00a.")
    assert value[0] is value


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/captioner-files")
@pytest.mark.parametrize("name", ["infos-python2.pkl", "vocabulary-python2.pkl", "tokenizer-num-words.pkl"])
def test_mutated_real_files_give_a_value_or_one_kind_of_error(name: str) -> None:
    data = (REAL / name).read_bytes()[:6_000]
    random = np.random.default_rng(0)
    for _ in range(400):
        mutated = bytearray(data)
        for place in random.integers(0, len(data), 8):
            mutated[place] = random.integers(0, 256)
        with suppress(PickleError):
            read_pickle(bytes(mutated), limits=SMALL)


def test_random_opcodes_give_a_value_or_one_kind_of_error() -> None:
    random = np.random.default_rng(0)
    opcodes = np.frombuffer(b"(.0123FGIJKLMNQRTUVX]}abcdeghijlopqrstu\x80\x81\x85\x86\x87\x88\x93\x94\n'", np.uint8)
    for _ in range(3_000):
        data = random.choice(opcodes, 30).tobytes() + b"."
        with suppress(PickleError):
            read_pickle(data, limits=SMALL)

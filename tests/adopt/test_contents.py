"""What people give in the place of a file, and what they are told."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt
from captionkit.adopt.options import AdoptOptions
from captionkit.adopt.trial import judge
from captionkit.cli import USAGE, main
from tests.adopt.tensor_bundles import field, table


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torch_file(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(500, 500)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def plain_h5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["images"] = [1, 2]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5238761\n",
            "pointer to a file of 5,238,761 b",
        ),
        (b"", "the file is empty"),
        (b"\n \n", "nothing but blanks"),
        (b"../data/vocab.pkl", r"symbolic link as text.*'\.\./data/vocab\.pkl'"),
        (b"https://drive.google.com/file/d/1\n", "a link to a download"),
        (b"import torch\nclass Vocabulary: pass\n", "Python source code"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"\xff\xd8\xff\xe0rest", "a JPEG image"),
        (b"{'not': 'json'}", "begins as JSON and is damaged or cut"),
        (b'{"word": 1, "other": ', "begins as JSON and is damaged or cut"),
        (b"Some notes about the model.\nTrained for a week.\n", "this is text"),
        (b"\x00\x01\x02\xff\xfe\xfd", "no file of a captioner"),
        (zipped(readme=b"x"), "neither PyTorch's nor Keras's"),
        (torch_file(legacy=False)[:600_000], r"has 600,000 bytes and needs more than 1,000,000"),
        (torch_file(legacy=True)[:600_000], r"needs 1,000,\d\d\d bytes and has 600,000"),
        (pickle.dumps({"a": 1, "b": 2, "c": 3})[:12], "is cut"),
        (
            table([(b"", field(1, 1)), (b"a", bytes(99))])[:60],
            "TensorFlow checkpoint, or its index, that is cut: it has 60",
        ),
        (plain_h5(), "an HDF5 file without a network: it holds images"),
        (pickle.dumps(print), ""),
        (pickle.dumps(Path("x")), r"would call pathlib"),
    ],
)
def test_what_is_no_part_of_a_captioner_is_called_what_it_is(data: bytes, complaint: str) -> None:
    if not complaint:
        assert look(data, "f").words is None
        return
    with pytest.raises(AdoptError, match=complaint) as caught:
        look(data, "models/vocab.pkl")
    assert str(caught.value).startswith("models/vocab.pkl: ")


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_cut_anywhere_are_refused(legacy: bool) -> None:
    data = torch_file(legacy)
    for length in [*range(1, 400, 7), 2**19, 10**6, len(data) - 1]:
        with pytest.raises(AdoptError):
            look(data[:length], "f")


def test_a_tensor_cannot_be_larger_than_its_storage() -> None:
    data = torch_file(legacy=True)
    with pytest.raises(AdoptError, match="does not fit its storage"):
        look(data.replace(b"M\xf4\x01M\xf4\x01\x86", b"M\xf4\x01M\xf5\x01\x86", 1), "f")


def test_im2txts_word_counts_are_read() -> None:
    for text in ("<S> 586368\n</S> 586368\na 969108\n", "b'<S>' 9\nb'</S>' 9\nb'a' 12\n"):
        words = look(text.encode(), "word_counts.txt").words
        assert words is not None
        assert (words.words, words.markers) == ({0: "<S>", 1: "</S>", 2: "a"}, {"start": 0, "end": 1})


def test_a_named_file_without_a_part_is_an_error_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sizes.pkl").write_bytes(pickle.dumps({"max_len": 34, "width": "299"}))
    assert main(["adopt", str(tmp_path / "sizes.pkl"), "--output", str(tmp_path / "bundle")]) == USAGE
    assert "holds no part of a captioner; its keys are 'max_len', 'width'" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.pkl").write_bytes(b"")
    with pytest.raises(AdoptError, match=r"none of the files.*of the files left out: .*a\.pkl: the file is empty"):
        adopt(AdoptOptions((str(tmp_path / "empty"),), str(tmp_path / "bundle")), print)


@pytest.mark.parametrize("more", [["--encoder-weights", "{}"], ["--try", "{}"], []])
def test_what_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    (tmp_path / "words.json").write_text(json.dumps(TOKENIZER))
    gone = str(tmp_path / "gone.h5")
    file = tmp_path / "words.json" if more else gone
    more = [word.format(gone) for word in more]
    assert main(["adopt", str(file), "--output", str(tmp_path / "bundle"), *more]) == USAGE
    assert capsys.readouterr().err.endswith(f" {gone}: no such file or folder\n")


def test_words_alone_are_no_captioner_and_of_no_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.json").write_text(json.dumps(TOKENIZER))
    assert main(["adopt", str(tmp_path / "words.json"), "--output", str(tmp_path / "bundle")]) == USAGE
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"captionkit: the weights are missing: {tmp_path}/words.json (JSON of a Keras tokenizer)")
    assert "tutorial" not in said


def test_captions_that_are_none_are_told() -> None:
    good = ["a dog runs", "a cat sits", "a man on a horse", "two dogs in snow"]
    assert judge(good) == []
    assert "do not begin alike" in judge(["the of", "grass a", "red on", "dog dog"])[0]
    assert any("do not end" in one for one in judge([" ".join(["a", *"b" * 18])] * 3 + ["a b"]))
    assert any("same caption" in one for one in judge(["a dog"] * 5))
    assert judge(["x", "y"]) == []


LISTED = ["<pad>", "<start>", "<end>", "<unk>", "a", "dog"]
NUMBERED = {word: number for number, word in enumerate(LISTED)}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        NUMBERED,
        OrderedDict(NUMBERED),
        (NUMBERED, dict(enumerate(LISTED))),
        list(NUMBERED.items()),
        {word: str(number) for word, number in NUMBERED.items()},
        {word: float(number) for word, number in NUMBERED.items()},
        {np.str_(word): np.int64(number) for word, number in NUMBERED.items()},
        np.array(LISTED),
        np.array(LISTED, dtype=object),
    ],
)
def test_words_with_numbers_are_read_in_every_protocol(value: object, protocol: int) -> None:
    words = look(pickle.dumps(value, protocol), "vocab.pkl").words
    assert words is not None
    assert words.words == dict(enumerate(LISTED))
    assert words.markers == {"pad": 0, "start": 1, "end": 2, "unk": 3}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [set(LISTED), frozenset(LISTED), Counter({"a": 93, "dog": 48, "cat": 7})])
def test_what_has_no_order_or_only_counts_is_no_vocabulary(value: object, protocol: int) -> None:
    assert look(pickle.dumps(value, protocol), "words.pkl").words is None


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LISTED) + "\n",
        "".join(f"{word}\t{number}\n" for word, number in NUMBERED.items()),
        "".join(f"{number} {word}\n" for word, number in NUMBERED.items()),
    ],
)
def test_text_with_a_word_a_line_is_read(text: str) -> None:
    words = look(text.encode(), "vocab.txt").words
    assert words is not None
    assert words.words == dict(enumerate(LISTED))
    with pytest.raises(AdoptError, match="this is text"):
        look(b"these\nare\nlines\nof\na\npoem\n", "poem.txt")


INDEX = {word: number for number, word in enumerate(["startseq", "endseq", "a", "dog"], 1)}
TOKENIZER = {
    "class_name": "Tokenizer",
    "config": {"num_words": 4, "document_count": 9, "word_index": json.dumps(INDEX), "word_docs": "{}"},
}


def test_a_keras_tokenizer_as_json_is_read() -> None:
    data = json.dumps(TOKENIZER)
    for one in (data, json.dumps(data)):
        words = look(one.encode(), "tokenizer.json").words
        assert words is not None
        assert (words.keras, words.limit) == (True, 4)
        assert words.words == {number: word for word, number in INDEX.items()}
        assert words.markers == {"start": 1, "end": 2}


def test_ruotianluos_data_and_infos_have_one_marker_for_all() -> None:
    words = {str(number): word for number, word in enumerate(["a", "dog", "runs", "UNK"], 1)}
    for value in ({"ix_to_word": words, "images": [{"id": 1}]}, {"vocab": words, "opt": {"rnn_size": 512}}):
        found = look(json.dumps(value).encode(), "cocotalk.json").words
        assert found is not None
        assert found.markers == {"pad": 0, "start": 0, "end": 0, "unk": 4}


def test_a_call_in_an_old_protocol_is_refused_by_name() -> None:
    for data in (b"cposix\nsystem\n(S'id'\ntR.", b"(S'id'\nios\nsystem\n."):
        with pytest.raises(AdoptError, match=r"would call \w+\.?system|would call os"):
            look(data, "vocab.pkl")


def test_features_of_images_are_told_from_other_arrays() -> None:
    given = look(pickle.dumps({f"{n}.jpg": np.full((1, 64), n, np.float32) for n in range(3)}), "encoded.pkl")
    assert given.features is not None
    assert given.describe() == "pickle; features of 3 images, 64 values each"
    for other in (
        {"a": np.zeros(64), "b": np.zeros(65)},
        {"a": np.zeros((8, 8))},
        {"a": np.zeros(3)},
        np.zeros((5, 64)),
    ):
        assert look(pickle.dumps(other), "f.pkl").features is None

"""Checkpoints and SavedModels of the Keras tutorial's network: adopted as its .h5 is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from captionkit.adopt.contents import look
from captionkit.adopt.errors import AdoptError
from captionkit.adopt.given import Given
from captionkit.adopt.job import adopt, gather
from captionkit.adopt.keras_merge import adopt_merge
from captionkit.adopt.options import AdoptOptions
from captionkit.adopt.tensorflow_files import head_of
from captionkit.storage import Storage
from tests.adopt.tensor_bundles import keras_checkpoint, write_checkpoint, write_saved_model
from tests.adopt.test_keras_merge import HIDDEN, Original, assert_same, tokenizer, weights

__all__ = ["weights"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n"


def metadata(original: Original, **changes: Any) -> str:
    """As SavedModels have it: tuples are objects."""
    config = original.config()
    for layer in config["config"]["layers"]:
        if (shape := layer["config"].pop("batch_input_shape", None)) is not None:
            layer["config"]["batch_input_shape"] = {"class_name": "__tuple__", "items": shape}
    return json.dumps({"name": "model_1", "keras_version": "2.9.0", "backend": "tensorflow", **config, **changes})


def read(*files: Path) -> list[Given]:
    found = gather(tuple(map(str, files)), Storage())
    assert not found.problems
    return found.given


@pytest.mark.parametrize("join", ["Add", "Concatenate"])
@pytest.mark.parametrize("old", [False, True])
def test_a_saved_model_computes_what_it_computed(weights: Path, tmp_path: Path, join: str, old: bool) -> None:
    original = Original(join, image=HIDDEN if join == "Add" else 5)
    described = metadata(original)
    if old:  # some versions have the layers one step further in
        described = json.dumps({**json.loads(described), "config": None, "model_config": json.loads(described)})
    folder = write_saved_model(tmp_path / "model", original.layers, described, old)
    (tmp_path / "t.p").write_bytes(tokenizer())
    for files in ([folder, tmp_path / "t.p"], [folder / "saved_model.pb", tmp_path / "t.p"], [tmp_path]):
        given = read(*files)
        assert sorted(one.form for one in given) == ["SavedModel", "pickle"]
        adopted = adopt_merge(given, look(weights.read_bytes(), "w"), "resnet18", (), {})
        assert "12 words with both markers" in adopted.exact[0]
        assert_same(adopted.captioner, original)


def test_weights_as_a_checkpoint_with_their_description(weights: Path, tmp_path: Path) -> None:
    original = Original()
    index = write_checkpoint(tmp_path / "cp.ckpt", keras_checkpoint(original.layers), 2)
    (tmp_path / "model.json").write_text(json.dumps(original.config()))
    (tmp_path / "t.p").write_bytes(tokenizer())
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "cp.ckpt"\n')
    others = [tmp_path / "model.json", tmp_path / "t.p"]
    (tmp_path / "cp.ckpt.meta").write_bytes(b"\x0a\x00")
    for files in (
        [index],
        [tmp_path / "cp.ckpt"],
        [tmp_path / "cp.ckpt.meta"],
        [tmp_path / "cp.ckpt.data-00001-of-00002", index],
        [tmp_path],
    ):
        given = read(*files, *(others if tmp_path not in files else []))
        assert len(given) == 3
        adopted = adopt_merge(given, look(weights.read_bytes(), "w"), "resnet18", (), {})
        assert_same(adopted.captioner, original)


def test_of_a_trainings_checkpoints_the_last_is_read(tmp_path: Path) -> None:
    for number in (5, 10, 15):
        write_checkpoint(tmp_path / f"model.ckpt-{number}", keras_checkpoint(Original(seed=number).layers))
    assert len(read(tmp_path)) == 3
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/home/me/train/model.ckpt-10"\nall_model_checkpoint_paths: "model.ckpt-5"\n'
    )
    [given] = read(tmp_path)
    assert given.name.endswith("model.ckpt-10.index")


def test_what_is_missing_from_several_files_is_named(tmp_path: Path) -> None:
    original = Original()
    folder = write_saved_model(tmp_path / "s", original.layers, metadata(original))
    index = write_checkpoint(tmp_path / "c" / "m.ckpt", keras_checkpoint(original.layers))
    data, inner = tmp_path / "c" / "m.ckpt.data-00000-of-00001", folder / "variables" / "variables.index"

    def complaint(path: Path) -> str:
        with pytest.raises(AdoptError) as caught:
            gather((str(path),), Storage())
        return str(caught.value)

    whole = data.read_bytes()
    data.unlink()
    assert "its data are missing: m.ckpt.data-00000-of-00001 belongs beside m.ckpt.index" in complaint(index)
    assert "its data are missing" in complaint(tmp_path / "c" / "m.ckpt")
    data.write_bytes(POINTER)
    assert "m.ckpt.data-00000-of-00001 is a Git LFS pointer" in complaint(index)
    data.write_bytes(whole[:-10])
    assert f"is cut: it needs {len(whole):,} bytes and has {len(whole) - 10:,}" in complaint(index)
    renamed = index.rename(tmp_path / "c" / "weights.bin")
    assert "its index is missing: a checkpoint is m.ckpt.index and" in complaint(data)
    assert "TensorFlow checkpoint's index under another name" in complaint(renamed)
    found = gather((str(tmp_path / "c"),), Storage())
    assert any("its index is missing" in problem for problem in found.problems)
    inner.write_bytes(POINTER)
    assert "variables.index is a Git LFS pointer" in complaint(folder / "saved_model.pb")
    (folder / "keras_metadata.pb").write_bytes(POINTER)
    assert "keras_metadata.pb is a Git LFS pointer" in complaint(folder / "saved_model.pb")
    (folder / "saved_model.pb").unlink()
    assert "saved_model.pb is missing" in complaint(inner)


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        (None, r"without Keras's description.*model\.save\(\"captioner\.keras\"\)"),
        ('{"class_name": "Captioner", "config": {}}', r"code of its own \(Captioner\)"),
        ('{"class_name": ', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
    ids=["exported", "subclassed", "cut", "nested"],
)
def test_a_saved_model_that_does_not_say_what_it_is_is_refused(
    tmp_path: Path, described: str | None, complaint: str
) -> None:
    folder = write_saved_model(tmp_path / "s", Original().layers, described)
    with pytest.raises(AdoptError, match=complaint):
        gather((str(folder / "saved_model.pb"),), Storage())


def test_damaged_descriptions_and_graphs_end_in_words(tmp_path: Path) -> None:
    original = Original()
    folder = write_saved_model(tmp_path / "s", original.layers, metadata(original))
    numbers = random.Random(0)
    whole = keras_checkpoint(original.layers)
    graph = whole["_CHECKPOINTABLE_OBJECT_GRAPH"]
    refused = 0
    for turn in range(60):
        path = folder / ("saved_model.pb", "keras_metadata.pb")[turn % 2]
        data = path.read_bytes()
        changed, broken = bytearray(data), bytearray(graph)
        for one in (changed, broken):
            for _ in range(numbers.choice((1, 3, 20))):
                one[numbers.randrange(len(one))] = numbers.randrange(256)
        path.write_bytes(changed)
        if turn % 6 == 0:  # with the right checksum
            tensors = {**whole, "_CHECKPOINTABLE_OBJECT_GRAPH": bytes(broken)}
            write_checkpoint(folder / "variables" / "variables", tensors)
        try:
            gather((str(folder / "saved_model.pb"),), Storage())
        except AdoptError:
            refused += 1
        path.write_bytes(data)
    assert 10 < refused < 60


def test_the_command_adopts_a_folder_with_a_saved_model(weights: Path, tmp_path: Path) -> None:
    original = Original()
    write_saved_model(tmp_path / "all" / "model", original.layers, metadata(original))
    (tmp_path / "all" / "tokenizer.p").write_bytes(tokenizer())
    options = AdoptOptions(
        (str(tmp_path / "all"),), str(tmp_path / "bundle"), encoder="resnet18", encoder_weights=str(weights)
    )
    lines: list[str] = []
    adopted, _ = adopt(options, lines.append)
    assert adopted.kind == "keras-merge"
    assert_same(adopted.captioner, original)
    assert any("saved_model.pb: SavedModel; a Keras network 'model_1'; weights of Keras" in line for line in lines)


def test_parts_are_known_by_their_names() -> None:
    for part in ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables/variables.data-00000-of-00001"):
        assert head_of(f"s3://b/m/{part}") == "s3://b/m/saved_model.pb"
    for ending in ("index", "data-00003-of-00010"):
        assert head_of(f"/m/model.ckpt-5.{ending}") == "/m/model.ckpt-5.index"
    for other in ("/m/model.h5", "/m/checkpoint", "/m/index", "/m/a.data-1-of-2"):
        assert head_of(other) is None

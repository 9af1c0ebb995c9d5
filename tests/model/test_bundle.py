"""Bundles: saved parts load again, damaged ones give an error that tells what is wrong."""

import contextlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from captionkit.errors import UsageError
from captionkit.model.bundle import read_weights, unpack
from captionkit.model.bundle_files import DESCRIPTION, FILES, VOCABULARY, WEIGHTS, BundleError, fingerprint
from captionkit.model.captioner import Captioner
from captionkit.storage import Storage, StorageError
from captionkit.vocabulary import Vocabulary


class Quiet(dict[str, bytes]):
    """Megabytes that no report of a failure should show."""

    def __repr__(self) -> str:
        return f"files of {[len(content) for content in self.values()]} bytes"


@pytest.fixture
def files(one_captioner: Captioner) -> dict[str, bytes]:
    return Quiet(one_captioner._pack(half=False))


def test_round_trip(captioner: Captioner, tmp_path: Path) -> None:
    name = captioner.save(tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted(FILES)
    again = Captioner.load(tmp_path / "bundle", dtype="float32")
    assert again.fingerprint == captioner.fingerprint == name
    assert (again.note, again.provenance) == ("for tests", {"data": ["none"]})
    assert again.vocabulary == captioner.vocabulary
    assert again.preprocessing == captioner.preprocessing
    for saved, loaded in ((captioner.encoder, again.encoder), (captioner.decoder, again.decoder)):
        assert saved.config == loaded.config
        assert not loaded.training
        for key, tensor in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)
    assert again.save(tmp_path / "again") == name


def test_any_address(captioner: Captioner) -> None:
    captioner.save("memory://bundles/one/")
    assert Captioner.load("memory://bundles/one").fingerprint == captioner.fingerprint
    assert Captioner.load("memory://bundles/one/").fingerprint == captioner.fingerprint


def test_half_precision(captioner: Captioner, tmp_path: Path) -> None:
    full, half = captioner.save(tmp_path / "full"), captioner.save(tmp_path / "half", half=True)
    assert full != half
    sizes = [(tmp_path / which / WEIGHTS).stat().st_size for which in ("full", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    again = Captioner.load(tmp_path / "half", dtype="float32")
    assert again.dtype == torch.float32
    assert again.fingerprint == half
    torch.testing.assert_close(again.decoder.image.weight, captioner.decoder.image.weight, atol=1e-2, rtol=1e-3)
    with torch.no_grad():
        captioner.decoder.get_parameter("output.bias")[0] = 1e5
    with pytest.raises(BundleError, match=r"decoder.output.bias holds values up to 1e\+05, too large for half"):
        captioner.save(tmp_path / "half", half=True)


def test_fingerprint_is_of_every_byte(files: dict[str, bytes]) -> None:
    name = fingerprint(files)
    assert len(name) == 19
    assert name.startswith("ck-")
    assert fingerprint(dict(reversed(files.items()))) == name
    for changed in FILES:
        assert fingerprint({**files, changed: files[changed] + b" "}) != name
    moved = {**files, DESCRIPTION: files[DESCRIPTION][:-1], VOCABULARY: files[DESCRIPTION][-1:] + files[VOCABULARY]}
    assert fingerprint(moved) != name


@pytest.mark.parametrize("missing", FILES)
def test_a_file_is_missing(captioner: Captioner, tmp_path: Path, missing: str) -> None:
    captioner.save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(BundleError, match=f"{tmp_path} is no captioner bundle: it lacks {missing}"):
        Captioner.load(tmp_path)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no captioner bundle: it lacks captioner\.json"):
        Captioner.load(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        Captioner.load("gopher://bundles/one")


def test_no_embedded_captioner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("captionkit.model.bundle_files.package_files", lambda _: tmp_path)
    with pytest.raises(BundleError, match=r"lacks the embedded captioner .*; install captionkit anew"):
        Captioner.load()


def test_the_error_names_the_address(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save(tmp_path)
    (tmp_path / DESCRIPTION).write_bytes(b"{")
    with pytest.raises(BundleError, match=f"{tmp_path}: captioner.json is not JSON .*; copy the bundle anew"):
        Captioner.load(tmp_path)


def described(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        description = json.loads(files[DESCRIPTION])
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = description
            for parent in parents:
                place = place[parent]
            if value is KeyError:
                del place[last]
            else:
                place[last] = value
        files[DESCRIPTION] = json.dumps(description).encode()

    return change


def tensors(**changes: torch.Tensor | None) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        weights = load_tensors(files[WEIGHTS])
        for path, tensor in changes.items():
            if tensor is None:
                del weights[path.replace("__", ".")]
            else:
                weights[path.replace("__", ".")] = tensor
        files[WEIGHTS] = save_tensors(weights)

    return change


def cut(name: str, size: int) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: files[name][:size]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(DESCRIPTION, 50), "captioner.json is not JSON"),
        (cut(VOCABULARY, 50), "vocabulary.json: the vocabulary is not JSON"),
        (cut(WEIGHTS, 5000), "weights.safetensors is cut off or damaged"),
        (cut(WEIGHTS, -1), "weights.safetensors is cut off or damaged"),
        (cut(WEIGHTS, 0), "weights.safetensors is cut off or damaged"),
        (lambda files: files.update({DESCRIPTION: b"[" * 99_999}), "captioner.json is not JSON"),
        (lambda files: files.update({DESCRIPTION: b"[1]"}), "does not describe a captioner"),
        (described(format=2), "captioner.json has format 2; this captionkit reads 1: update it"),
        (described(encoder=KeyError), '"encoder" is missing or of the wrong kind'),
        (described(decoder=[]), '"decoder" is missing or of the wrong kind'),
        (described(note=7), '"note" is missing or of the wrong kind'),
        (described(encoder__name="resnet5"), "no classification network 'resnet5'; close to it: resnet50"),
        (described(encoder__name="resnet18"), "these are not the weights of resnet18"),
        (described(encoder__output="map"), 'output is "pooled" or "grid"'),
        (described(encoder__output="grid"), "the encoder gives grid features of 512 values, the decoder reads pooled"),
        (described(encoder__weights="none"), "give no encoder: .*weights"),
        (described(preprocessing__size=0), "give no encoder: size must be at least 1"),
        (described(preprocessing__angle=0), "give no encoder: not a preprocessing description"),
        (described(decoder__name="tell_show"), "no decoder is called 'tell_show'; there are: show_tell"),
        (described(decoder__config=None), "gives no decoder"),
        (described(decoder__config__heads=2), "gives no decoder: .*heads"),
        (
            described(decoder__config__hidden_size=17),
            r"decoder of captioner.json: lstm.weight_ih_l0 is \(64, 16\), not",
        ),
        (described(decoder__config__hidden_size=10**9), "gives no decoder"),
        (described(decoder__config__layers=2), r"it lacks 4 \(lstm.bias_hh_l1, lstm.bias_ih_l1"),
        (tensors(decoder__output__bias=None), r"of its tensors it lacks 1 \(output.bias\)"),
        (tensors(decoder__extra=torch.ones(1)), r"of its tensors it also holds 1 \(extra\)"),
        (tensors(encoder__features__0__bias=None), r"squeezenet1_1: 1 tensors missing \(features.0.bias\)"),
        (tensors(encoder__classifier__1__bias=torch.ones(1000)), r"it also holds 1 \(classifier.1.bias\)"),
        (tensors(encoder__features__0__bias=torch.ones(3)), r"features.0.bias is \(3,\), not \(64,\)"),
        (tensors(optimizer=torch.ones(1)), "a tensor that is none of a captioner.s: optimizer"),
        (
            lambda files: files.update({VOCABULARY: Vocabulary.build(["a dog"], min_count=1).to_json().encode()}),
            "the vocabulary has 6 words and the decoder 26: they belong to different captioners",
        ),
        (lambda files: files.update({VOCABULARY: b'{"format": 1, "words": ["a"]}'}), "vocabulary.json: .*begins with"),
    ],
)
def test_a_damaged_bundle_gives_an_error(
    files: dict[str, bytes], damage: Callable[[dict[str, bytes]], None], message: str
) -> None:
    damage(files)
    with pytest.raises(BundleError, match=message):
        unpack(files)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises_anything_else(files: dict[str, bytes], data: st.DataObject) -> None:
    """Bytes changed at the beginning of each file, which describes the rest."""
    damaged = Quiet(files)
    name = data.draw(st.sampled_from(FILES))
    content = bytearray(damaged[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 3000) - 1))] = data.draw(st.integers(0, 255))
    damaged[name] = bytes(content)
    with contextlib.suppress(BundleError):  # a letter of a word, a digit of a weight may well have become another
        encoder, decoder, vocabulary, *_ = unpack(damaged)
        assert decoder.vocab_size == len(vocabulary)
        assert encoder.feature_size == decoder.feature_size


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        [
            *("encoder", "decoder", "preprocessing", "provenance", "note"),
            *("encoder__name", "encoder__output", "encoder__layer"),
            *("decoder__name", "decoder__config", "decoder__config__layers", "decoder__config__dropout"),
            *("preprocessing__size", "preprocessing__mean", "preprocessing__mode", "preprocessing__resize"),
        ]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_no_description_raises_anything_else(files: dict[str, bytes], path: str, value: Any) -> None:
    damaged = Quiet(files)
    described(**{path: value})(damaged)
    with contextlib.suppress(BundleError):
        unpack(damaged)


def test_no_pickle(tmp_path: Path, captioner: Captioner) -> None:
    """A file of pickled weights in place of the safetensors is refused, not run."""
    captioner.save(tmp_path)
    torch.save({"decoder.output.bias": torch.ones(3)}, tmp_path / WEIGHTS)
    with pytest.raises(BundleError, match="is cut off or damaged"):
        Captioner.load(tmp_path)


def test_storage_options_are_used(captioner: Captioner, tmp_path: Path) -> None:
    read = []

    class Noting(Storage):
        def read(self, uri: str, column: str | None = None) -> bytes:
            read.append(Path(uri).name)
            return super().read(uri, column)

    captioner.save(tmp_path, storage=Noting())
    Captioner.load(tmp_path, storage=Noting())
    assert read == list(FILES)


def test_weights_of_a_network(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    (tmp_path / "a.safetensors").write_bytes(save_tensors(tensors))
    torch.save(tensors, tmp_path / "b.pth")
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "c.pth")
    torch.save(tensors, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.pth", "d.pth"):
        read = read_weights(str(tmp_path / name), Storage())
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())
    with pytest.raises(StorageError, match=r"none\.pth"):
        read_weights(str(tmp_path / "none.pth"), Storage())


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_weights_that_are_none(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"a": torch.ones(3), "trap": Trap(mark)}, path)
    whole = path.read_bytes()
    for data in (whole, pickle.dumps(Trap(mark), protocol=2), whole[:-100], b"", b"\x80", b"text", b"12345678{no json"):
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"weights\.pth is damaged, or holds more than tensors"):
            read_weights(str(path), Storage())
    assert not mark.exists()
    for content in ([torch.ones(1)], {"a": 3}, torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(BundleError, match="holds no state dict"):
            read_weights(str(path), Storage())

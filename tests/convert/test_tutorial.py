"""The PyTorch tutorial's own programs read what is written for them, and say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from captionkit import Captioner
from captionkit.cli import OK, USAGE, main
from captionkit.convert.tutorial import to_tutorial
from captionkit.errors import UsageError
from captionkit.images import prepare
from captionkit.model.decoders import ShowTell
from captionkit.model.encoders import build_encoder
from tests.adopt import originals
from tests.adopt.originals import Decoder, Encoder, photo
from tests.adopt.test_show_tell import ALL, EMBED, HIDDEN, encoder, make_decoder, run
from tests.test_readme import ROOT

__all__ = ["encoder"]


@pytest.fixture
def adopted(encoder: Encoder, tmp_path: Path) -> Captioner:
    decoder = make_decoder(layers=2)
    files = (
        originals.save_pickle(originals.Vocabulary(ALL), tmp_path / "vocab.pkl"),
        originals.save_torch(decoder.state_dict(), tmp_path / "decoder.pkl"),
        originals.save_torch(encoder.state_dict(), tmp_path / "encoder.pkl"),
    )
    return run(tmp_path, *files)[1]


def test_the_tutorials_modules_load_the_files_and_say_the_same(adopted: Captioner, tmp_path: Path) -> None:
    assert main(["convert", str(tmp_path / "bundle"), "--to", "tutorial", str(tmp_path / "again")]) == OK
    there, decoder = Encoder(EMBED).eval(), Decoder(len(ALL), EMBED, HIDDEN, 2).eval()
    there.load_state_dict(torch.load(tmp_path / "again" / "encoder.ckpt", weights_only=True))
    decoder.load_state_dict(torch.load(tmp_path / "again" / "decoder.ckpt", weights_only=True))
    words = json.loads((tmp_path / "again" / "vocab.json").read_text())
    assert words["word2idx"][words["idx2word"]["7"]] == 7
    said = set()
    for seed in range(4):
        with torch.no_grad():
            ids = decoder.sample(there(originals.tutorial_pixels(photo(seed))), 1)
        text = originals.words_of(ids, [words["idx2word"][str(n)] for n in range(len(ALL))], ("<start>", "<end>"))
        expected = adopted.caption([photo(seed)], beam=1, max_length=19, min_length=0, banned=())[0].text or ""
        assert text == expected
        said.add(text)
    assert len(said) > 1


def test_what_is_written_is_adopted_again(adopted: Captioner, tmp_path: Path) -> None:
    files, notes = to_tutorial(adopted)
    assert notes == []
    folder = tmp_path / "again"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    _, again, _ = run(tmp_path, folder)
    assert again.vocabulary == adopted.vocabulary
    for seed in range(3):
        texts = [one.caption([photo(seed)], beam=3, max_length=12)[0].text for one in (adopted, again)]
        assert texts[0] == texts[1]


def test_statistics_of_features_are_counted_into_the_linear_layer(adopted: Captioner, tmp_path: Path) -> None:
    features = adopted.encode(prepare(photo(0), adopted.preprocessing)[None])
    assert isinstance(adopted.decoder, ShowTell)
    adopted.decoder.set_feature_statistics(torch.cat([features, features + 1]))
    files, notes = to_tutorial(adopted)
    assert any("8 standard deviations" in note for note in notes)
    (tmp_path / "e.ckpt").write_bytes(files["encoder.ckpt"])
    there = Encoder(EMBED).eval()
    there.load_state_dict(torch.load(tmp_path / "e.ckpt", weights_only=True))
    with torch.no_grad():
        found = there.bn(there.linear(features))
        expected = adopted.decoder.image(adopted.decoder.standardize(features))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_families_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(ROOT / "captionkit" / "assets" / "default")
    assert main(["convert", bundle, "--to", "tutorial", str(tmp_path / "out")]) == USAGE
    assert "is of the family show_tell; this one is par_inject" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["maxout", "image_relu"])
def test_what_the_tutorial_does_not_compute_is_refused(adopted: Captioner, option: str) -> None:
    config = ShowTell.Config(vocab_size=len(adopted.vocabulary), feature_size=8, **{option: True})
    other = Captioner(build_encoder("none", features=8), ShowTell(config), adopted.vocabulary)
    with pytest.raises(UsageError, match="this one is show_tell with a ReLU after the image or maxout"):
        to_tutorial(other)

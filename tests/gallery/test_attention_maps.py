"""Attention maps drawn over images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captionkit import Captioner
from captionkit.cli import main
from captionkit.drawing.attention import AttentionMaps, attention_picture
from captionkit.errors import UsageError
from captionkit.gallery.attention_maps import make_attention_maps, maps_of_caption
from captionkit.images import Limits
from captionkit.model.decoders import build_decoder
from captionkit.model.encoders import build_encoder, default_preprocessing
from captionkit.model.search.options import SearchOptions
from captionkit.scenes import draw, random_scene
from captionkit.vocabulary import Vocabulary


def captioner(decoder: str) -> Captioner:
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(["a red ball and tree"], min_count=1)
    encoder = build_encoder(
        "tiny_resnet", "grid" if decoder != "show_tell" else "pooled", "none", default_preprocessing("tiny_resnet", 64)
    )
    sizes = {"embed_size": 8, "hidden_size": 8}
    config = {"vocab_size": len(vocabulary), "feature_size": encoder.feature_size, **sizes}
    return Captioner(encoder, build_decoder(decoder, config), vocabulary)


def photo() -> bytes:
    data = io.BytesIO()
    draw(random_scene(1), 96).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("decoder", ["soft_attention", "top_down"])
def test_each_word_of_the_caption_has_a_map_over_the_grid(decoder: str) -> None:
    speaker = captioner(decoder)
    search = SearchOptions(min_length=3, max_length=4)
    found = make_attention_maps(speaker, photo(), search)
    assert found.caption == speaker.caption_pixels(found.pixels[None], search)[0][0].text
    words, rows, columns = found.maps.shape
    assert (words, rows) == (len(found.words), columns)
    assert rows**2 == speaker.encode(found.pixels[None]).shape[1]
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_a_caption_that_was_made_before_has_its_maps_over_the_part_that_was_seen() -> None:
    speaker = captioner("top_down")
    found = make_attention_maps(speaker, photo(), SearchOptions(min_length=3, max_length=4))
    again = maps_of_caption(speaker, photo(), found.words, Limits(), 128)
    np.testing.assert_allclose(again.maps, found.maps, atol=1e-5)
    assert again.pixels.shape == (128, 128, 3)
    small = np.asarray(Image.fromarray(again.pixels).resize((64, 64), Image.Resampling.BOX), int)
    assert np.abs(small - found.pixels).mean() < 12  # the same cut, in more pixels


def test_what_was_looked_at_is_in_light() -> None:
    maps = np.full((2, 4, 4), 1e-3, np.float32)
    maps[0, 0, 0] = maps[1, 3, 3] = 1  # the first word's upper left corner, the second's lower right
    found = AttentionMaps(np.full((64, 64, 3), 255, np.uint8), ("ball", "tree"), maps)
    picture = Image.open(io.BytesIO(attention_picture(found))).convert("L")
    width = picture.width / 5
    tiles = [np.asarray(picture.crop((int(width * n), 0, int(width * (n + 1)), picture.height))) for n in range(3)]
    half = [slice(None, int(width / 2)), slice(int(width / 2), None)]
    dark = [[int((tile[:, side] < 100).sum()) for side in half] for tile in tiles]
    assert dark[0] == [0, 0]
    assert dark[1][0] < dark[1][1]
    assert dark[2][0] > dark[2][1]


def test_a_decoder_without_attention_is_refused() -> None:
    with pytest.raises(UsageError, match="show_tell, has no attention; choose"):
        make_attention_maps(captioner("show_tell"), photo())


def test_the_command_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioner("top_down").save(tmp_path / "bundle")
    (tmp_path / "photo.png").write_bytes(photo())
    picture = tmp_path / "attention.png"
    assert main(["attention", str(tmp_path / "bundle"), str(tmp_path / "photo.png"), "--picture", str(picture)]) == 0
    Image.open(picture).verify()
    assert "caption:" in capsys.readouterr().err
    (tmp_path / "notes.jpg").write_bytes(b"These are notes.")
    assert main(["attention", str(tmp_path / "bundle"), str(tmp_path / "notes.jpg")]) == 2
    assert "notes.jpg" in capsys.readouterr().err

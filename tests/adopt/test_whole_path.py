"""What the tutorial does, in one command each: adopt its files, caption a folder on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captionkit.cli import OK, main
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable
from tests.adopt import originals
from tests.adopt.test_show_tell import ALL, encoder, make_decoder

__all__ = ["encoder"]


@pytest.mark.slow
def test_the_tutorials_files_caption_a_folder_on_ray(
    ray_cluster: None, encoder: originals.Encoder, tmp_path: Path
) -> None:
    models, photos = tmp_path / "models", tmp_path / "photos"
    models.mkdir(), photos.mkdir()
    decoder = make_decoder()
    originals.save_torch(encoder.state_dict(), models / "encoder-5-3000.pkl")
    originals.save_torch(decoder.state_dict(), models / "decoder-5-3000.pkl", legacy=True)
    originals.save_pickle(originals.Vocabulary(ALL), tmp_path / "vocab.pkl", 2)
    expected = {}
    for seed in range(5):
        originals.photo(seed).save(photos / f"{seed}.png")
        with torch.no_grad():
            ids = decoder.sample(encoder(originals.tutorial_pixels(originals.photo(seed))), 1)
        expected[f"{seed}.png"] = originals.words_of(ids, ALL, ("<start>", "<end>"))
    bundle, table = str(tmp_path / "bundle"), str(tmp_path / "captions")
    files = [str(models), str(tmp_path / "vocab.pkl")]
    assert main(["adopt", *files, "--output", bundle, "--try", str(photos / "0.png")]) == OK
    search = ["--beam", "1", "--max-length", "19", "--min-length", "0", "--banned"]
    code = main(
        [
            "caption",
            "--input",
            str(photos),
            "--output",
            table,
            "--model",
            bundle,
            "--dtype",
            "float32",
            "--max-failed",
            "1",
            *search,
        ]
    )
    assert code == OK
    rows = CaptionTable(table, Storage()).rows(["uri", "caption"])
    assert {Path(row["uri"]).name: row["caption"] or "" for row in rows} == expected
    assert len(set(expected.values())) > 1

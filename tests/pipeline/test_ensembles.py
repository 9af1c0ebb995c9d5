"""Captioners that decode together, in the caption job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from captionkit import Captioner
from captionkit.cli import OK, main
from captionkit.model.encoders import build_encoder
from captionkit.scenes import draw, random_scene
from captionkit.storage import Storage
from captionkit.table.table import CaptionTable


@pytest.mark.slow
def test_members_of_different_geometries_caption_an_archive(ray_cluster: None, tmp_path: Path) -> None:
    photos, models = tmp_path / "photos", [str(tmp_path / "small"), str(tmp_path / "large")]
    photos.mkdir()
    for seed in range(6):
        draw(random_scene(seed), 400).resize((400, 300)).save(photos / f"{seed}.jpg")
    embedded = Captioner.load(device="cpu", dtype="float32")
    embedded.save(models[0])
    eyes, geometry = embedded.encoder, replace(embedded.preprocessing, size=128, resize=140, mode="crop")
    large = build_encoder(**eyes.config, weights=eyes.network.state_dict(), preprocessing=geometry)
    Captioner(large, embedded.decoder, embedded.vocabulary).save(models[1])
    table = str(tmp_path / "captions")
    named = ["--model", models[0], "--model", models[1]]
    assert main(["caption", "--input", str(photos), "--output", table, *named, "--dtype", "float32"]) == OK
    both = Captioner.load(models, device="cpu", dtype="float32")
    assert [one.size for one in both.preprocessing.each] in ([96, 128], [128, 96])
    files = sorted(str(path) for path in photos.iterdir())
    expected = {Path(file).name: one.text for file, one in zip(files, both.caption(files), strict=True)}
    rows = list(CaptionTable(table, Storage()).rows(["uri", "caption", "model"]))
    assert {Path(row["uri"]).name: row["caption"] for row in rows} == expected
    assert {row["model"] for row in rows} == {both.fingerprint}

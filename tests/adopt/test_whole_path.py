"""What the tutorial does, in one command each: adopt its files, caption a folder on Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from captionkit import Captioner
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
    with torch.no_grad():  # captions of some words, as those of a trained one, and none unknown
        decoder.linear.bias[2:4] -= torch.tensor([1.0, 20.0])
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
    # Against its own captions the tutorial's captioner is faultless, as far as greedy search goes.
    corpus = tmp_path / "captions.jsonl"
    known = {name: text for name, text in expected.items() if text and "<unk>" not in text}
    assert len(known) > 2
    corpus.write_text("\n".join(json.dumps({"image": name, "caption": text}) for name, text in known.items()))
    of_corpus = ["--corpus", str(corpus), "--images", str(photos), "--split", "all"]
    ruler = ["--beams", "1", "3", "--max-length", "19", "--min-length", "0", "--metrics", "BLEU-1", "BLEU-4"]
    judged = tmp_path / "evaluation"
    command = ["evaluate", *of_corpus, "--model", bundle, "--dtype", "float32", *ruler, "--output", str(judged)]
    assert main(command) == OK
    scores = json.loads((judged / "score_card.json").read_text())["scores"]
    assert scores["greedy"]["BLEU-1"] == pytest.approx(100)
    assert set(scores) == {"greedy", "beam 3"}
    page = tmp_path / "beams.html"
    command = ["show", str(photos), "--model", bundle, "--dtype", "float32", *search, *of_corpus[:4]]
    assert main([*command, "--output", str(page)]) == OK
    assert all(text in page.read_text() for text in known.values())


@pytest.mark.slow
def test_two_adopted_captioners_caption_together_on_ray(
    ray_cluster: None, encoder: originals.Encoder, tmp_path: Path
) -> None:
    bundles, photos = [str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        originals.photo(seed).save(photos / f"{seed}.png")
    vocabulary = originals.save_pickle(originals.Vocabulary(ALL), tmp_path / "vocab.pkl", 2)
    eyes = originals.save_torch(encoder.state_dict(), tmp_path / "encoder.pkl")
    for number, bundle in enumerate(bundles):
        decoder = make_decoder(layers=1 + number)
        mouth = originals.save_torch(decoder.state_dict(), tmp_path / f"decoder-{number}.pkl")
        files = [str(vocabulary), str(eyes), str(mouth)]
        assert main(["adopt", *files, "--output", bundle, "--try", str(photos / "0.png")]) == OK
    table, both = str(tmp_path / "captions"), ["--model", bundles[0], "--model", bundles[1], "--dtype", "float32"]
    search = ["--beam", "2", "--max-length", "8", "--min-length", "3"]
    assert main(["caption", "--input", str(photos), "--output", table, *both, *search]) == OK
    together = Captioner.load(bundles[::-1], device="cpu", dtype="float32")
    images = sorted(photos.iterdir())
    expected = [caption.text for caption in together.caption(images, beam=2, max_length=8, min_length=3)]
    rows = {row["uri"]: row for row in CaptionTable(table, Storage()).rows(["uri", "caption", "model"])}
    assert [rows[str(image)]["caption"] for image in images] == expected
    assert {row["model"] for row in rows.values()} == {together.fingerprint}
    alone = [Captioner.load(bundle, device="cpu", dtype="float32") for bundle in bundles]
    assert any([one.text for one in speaker.caption(images, beam=2, max_length=8, min_length=3)] != expected
               for speaker in alone)  # fmt: skip

"""An evaluation from the corpus to the page, with the embedded captioner, and with a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro

from captionkit.errors import UsageError
from captionkit.evaluation.job import evaluate
from captionkit.evaluation.options import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions
from captionkit.evaluation.preflight import make_searches
from captionkit.model.search.options import SearchOptions
from tests.evaluation.test_candidates import write_table

pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")

METRICS = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D")


def test_a_captioner_is_evaluated_with_several_searches(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    lines = (scenes / "captions.jsonl").read_text() + json.dumps({"uri": "broken.jpg", "captions": ["a square"]})
    (tmp_path / "corpus.jsonl").write_text(lines)
    result = evaluate(
        EvaluateOptions(
            JudgedCorpusOptions((str(tmp_path / "corpus.jsonl"),), images=(str(scenes), str(tmp_path)), split="all"),
            ResultOptions(str(tmp_path / "judged"), METRICS, pictures=2),
            CandidateOptions(beams=(1, 3), dtype="float32", batch_size=4),
        )
    )
    card = json.loads(Path(result.json_uri).read_text())
    assert list(card["scores"]) == ["greedy", "beam 3"]
    # The captioner was trained on such scenes: it is far better than chance, and the broken image counts.
    assert card["scores"]["beam 3"]["BLEU-1"] > 30
    assert [name.rpartition("/")[2] for name in card["missing"]] == ["broken.jpg"]
    assert len(card["images"]) == 6
    markdown = Path(result.markdown_uri).read_text()
    assert "**1 of 6 images have no caption" in markdown
    assert "| hard attention | – | 21.3 |" in markdown
    page = Path(result.page_uri).read_text()
    assert page.count("data:image/webp") >= 4
    assert "not_an_image" not in page


def test_a_table_is_evaluated_by_the_same_metrics(scenes: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (scenes / "captions.jsonl").read_text().splitlines()]
    write_table(tmp_path / "table", [(f"s3://archive/{row['uri']}", row["captions"][0]) for row in rows])
    result = evaluate(
        EvaluateOptions(
            JudgedCorpusOptions((str(scenes / "captions.jsonl"),), split="all"),
            ResultOptions(str(tmp_path / "judged"), METRICS, pictures=1),
            CandidateOptions(table=str(tmp_path / "table")),
        )
    )
    [decoding] = result.card.decodings
    assert (decoding.name, decoding.seconds) == ("table", None)
    assert result.card.facts["model"] == "m1"
    # A reference is a perfect candidate.
    assert decoding.scores.corpus["BLEU-4"] == pytest.approx(1)
    assert result.card.missing == {}


def test_options_come_from_the_command_line() -> None:
    options = tyro.cli(
        EvaluateOptions,
        args=["--corpus", "a.token.txt", "b.json", "--output", "judged", "--beams", "1", "3", "--max-length", "12"],
    )
    assert options.corpus.corpus == ("a.token.txt", "b.json")
    assert options.corpus.split == "test"
    assert list(make_searches(options.candidates, options.search)) == ["greedy", "beam 3"]
    assert make_searches(options.candidates, options.search)["beam 3"].max_length == 12
    assert options.result.metrics[-1] == "SPICE"


def test_options_that_cannot_work_are_refused(scenes: Path, tmp_path: Path) -> None:
    for wrong in ({"beams": ()}, {"beams": (3, 3)}, {"beams": (0,)}, {"batch_size": 0}, {"model": "a", "table": "b"}):
        with pytest.raises(UsageError):
            CandidateOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="BLEU; choose from BLEU-1"):
        ResultOptions("out", metrics=("BLEU",))
    with pytest.raises(UsageError, match="pictures"):
        ResultOptions("out", pictures=-1)
    with pytest.raises(UsageError, match="--beams: beam 3 cannot be divided"):
        make_searches(CandidateOptions(beams=(3,)), SearchOptions(beam=4, groups=2))
    corpus = JudgedCorpusOptions((str(scenes / "captions.jsonl"),), split="all")
    nothing = CandidateOptions(table=str(tmp_path))
    with pytest.raises(UsageError, match="there is no caption table"):
        evaluate(EvaluateOptions(corpus, ResultOptions(str(tmp_path / "judged"), METRICS), nothing))

"""Which captions people would accept, and what a captioner's scores tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from captionkit import Captioner
from captionkit.errors import UsageError
from captionkit.evaluation.confidence import (
    Bound,
    Judgement,
    calibrate,
    crossed_chances,
    fit,
    judged_bound,
    measure,
    people_bound,
    read_judgements,
)
from captionkit.evaluation.job import evaluate
from captionkit.evaluation.options import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions
from captionkit.metrics.cider import CiderD, DocumentFrequencies
from captionkit.scenes import draw_folder
from captionkit.storage import Storage

BOUND = Bound(0.5, "good")


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and captions that are acceptable with a chance that rises with them."""
    random = np.random.default_rng(seed)
    scores = random.normal(-1, 0.5, count)
    return scores, random.random(count) < chance_of(scores)


def chance_of(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-4 * (scores + 1)))


def test_a_calibration_finds_the_chances_and_holds_for_other_captions() -> None:
    calibration = calibrate(*drawn(20_000), BOUND, "beam 5")
    scores, acceptable = drawn(20_000, seed=1)
    chances = calibration.chance(scores)
    assert np.abs(chances - chance_of(scores)).mean() < 0.03
    found = measure(scores, acceptable, BOUND, chances, "elsewhere")
    assert found.error is not None
    assert found.error < 0.02
    assert len(found.bins) == 10
    assert calibration.images == 20_000
    # Of two captions of which one is acceptable: drawn, not reckoned.
    assert 0.8 < found.ranking < 0.9
    assert found.coverage[0].risk == pytest.approx(1 - acceptable.mean())
    risks = [one.risk for one in found.coverage]
    assert risks == sorted(risks, reverse=True)


def test_chances_never_fall_and_none_is_certain() -> None:
    scores = np.arange(100.0)
    _, chances = fit(scores, scores >= 50)
    assert 0 < chances[0] < chances[-1] < 1
    assert fit(scores, scores < 50)[1] == (0.5, 0.5)  # the wrong way round: scores tell nothing that may be used
    assert fit(np.zeros(100), scores >= 50) == ((0.0,), (0.5,))


def test_scores_that_tell_nothing_are_not_made_to_tell_something() -> None:
    random = np.random.default_rng(0)
    scores, acceptable = random.normal(size=2000), random.random(2000) < 0.4
    chances = crossed_chances(scores, acceptable)
    found = measure(scores, acceptable, BOUND, chances)
    assert found.ranking == pytest.approx(0.5, abs=0.03)
    assert np.abs(chances - 0.4).mean() < 0.03
    assert measure(np.zeros(10), np.arange(10) < 5, BOUND).ranking == 0.5


def test_people_s_captions_are_measured_against_the_others_of_their_image() -> None:
    references = [["a dog runs", "a dog runs", "birds"], ["a cat", "the cat sits", "a cat"], ["alone"]]
    tokens = [[tuple(text.split()) for text in texts] for texts in references]
    frequencies = DocumentFrequencies.of(tokens)
    found = [
        CiderD([texts[:at] + texts[at + 1 :]], frequencies).score([texts[at]])[0]
        for texts in tokens[:2]
        for at in range(3)
    ]
    bound = people_bound(references, 0.25)
    assert bound.cider == pytest.approx(np.quantile(found, 0.25))
    assert "75% of people's captions reach" in bound.meaning
    with pytest.raises(UsageError, match="no image has two captions"):
        people_bound([["alone"]], 0.25)


def test_judgements_of_experts_and_of_a_crowd_are_read(tmp_path: Path) -> None:
    experts, crowd, wrong = (tmp_path / name for name in ("Expert.txt", "Crowd.txt", "wrong.txt"))
    experts.write_text("a.jpg\tb.jpg#2\t1\t1\t3\n\na.jpg\ta.jpg#0\t4\t3\t1\n")
    crowd.write_text("a.jpg\tb.jpg#2\t0.33\t1\t2\na.jpg\ta.jpg#0\t1\t3\t0\n")
    expected = [Judgement("a.jpg", "b.jpg", 2, False), Judgement("a.jpg", "a.jpg", 0, True)]
    assert read_judgements(str(experts), Storage()) == expected
    assert read_judgements(str(crowd), Storage()) == expected
    wrong.write_text("a.jpg\tb.jpg#2\t1\t1\t3\na.jpg b.jpg#2 1 1 3\n")
    with pytest.raises(UsageError, match=r"wrong.txt, line 2: expected an image"):
        read_judgements(str(wrong), Storage())


def test_the_bound_is_where_people_s_judgements_part() -> None:
    references = {"a": ["a dog runs fast", "a dog runs"], "b": ["two cats sleep", "two cats sit"], "c": ["x y", "z"]}
    judgements = [
        Judgement("a", "a", 0, True),  # against the other one of its image
        Judgement("b", "b", 1, True),
        Judgement("a", "b", 0, False),  # nothing in common
        Judgement("b", "a", 0, False),
        Judgement("gone", "a", 0, False),
        Judgement("a", "a", 7, False),
    ]
    bound = judged_bound(judgements, references, "Expert.txt")
    assert bound.cider > 0
    assert "which 100% of the captions reach that people accepted, and 0% of the others (4 judgements" in bound.meaning
    with pytest.raises(UsageError, match="of 1 judgements 1 are of these images"):
        judged_bound(judgements[:1], references, "Expert.txt")


@pytest.mark.slow
def test_an_evaluation_calibrates_a_captioner_and_judges_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap", reason="the reference implementation is an extra")
    list(draw_folder(str(tmp_path / "scenes"), 60, 20_000_000, 96))
    Captioner.load(dtype="float32").save(tmp_path / "bundle")
    corpus = JudgedCorpusOptions((str(tmp_path / "scenes" / "captions.jsonl"),), split="all")
    model, other = str(tmp_path / "bundle"), str(tmp_path / "calibrated")
    metrics = ("CIDEr-D",)
    result = ResultOptions(str(tmp_path / "first"), metrics, pictures=0, calibrate=other)
    first = evaluate(EvaluateOptions(corpus, result, CandidateOptions(model=model, beams=(2,))))
    captioner = Captioner.load(other)
    assert captioner.calibration == first.card.calibration
    assert captioner.fingerprint != Captioner.load(model).fingerprint
    picture = str(next((tmp_path / "scenes").glob("*.jpg")))
    caption = captioner.caption([picture], beam=2)[0]
    assert captioner.calibration is not None
    assert caption.confidence == pytest.approx(captioner.calibration.chance([caption.score or 0])[0])
    assert Captioner.load(model).caption([picture])[0].confidence is None

    result = ResultOptions(str(tmp_path / "second"), metrics, pictures=0)
    second = evaluate(EvaluateOptions(corpus, result, CandidateOptions(model=other, beams=(1, 2))))
    assert list(second.card.reliability) == ["greedy", "beam 2"]
    card = json.loads(Path(second.json_uri).read_text())
    assert card["reliability"]["beam 2"]["fitted"] == "by the captioner's own table"
    assert len(card["reliability"]["beam 2"]["bins"]) == 10
    assert "## Is a caption right? (beam 2)" in Path(second.markdown_uri).read_text()
    page = Path(second.page_uri).read_text()
    assert page.count("<circle") == 20
    assert page.count("<polyline") == 2

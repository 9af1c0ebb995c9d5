"""Training from a corpus to a bundle, on real Ray Train workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captionkit.cli import STOPPED
from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.model.captioner import Captioner
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.job import CaptionJob
from captionkit.pipeline.options import CaptionOptions, OutputOptions
from captionkit.scenes import draw_folder
from captionkit.training.job import TrainJob
from captionkit.training.options import (
    CorpusOptions,
    FinetuneOptions,
    NetworkOptions,
    ResultOptions,
    ScstOptions,
    StepOptions,
    TrainOptions,
    ValidateOptions,
    WorkerOptions,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = {"embed_size": 24, "hidden_size": 32, "dropout": 0.0}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of twelve drawn scenes, five captions each."""
    folder = tmp_path_factory.mktemp("corpus")
    list(draw_folder(str(folder), 12, 0, 96))
    return folder


def options_for(scenes: Path, output: Path, **others: Any) -> TrainOptions:
    known: dict[str, Any] = {
        "corpus": CorpusOptions(corpus=(str(scenes / "captions.jsonl"),), min_count=1, dev_list=str(dev_list(scenes))),
        "result": ResultOptions(str(output)),
        "network": NetworkOptions(
            decoder="show_tell", encoder="tiny_resnet", encoder_weights="none", decoder_options=SMALL
        ),
        "steps": StepOptions(epochs=2, batch_size=10, dtype="float32"),
        "cluster": WorkerOptions(cache=str(scenes / "features")),
    }
    return TrainOptions(**(known | others))


def dev_list(scenes: Path) -> Path:
    path = scenes / "dev.txt"
    names = sorted(file.name for file in scenes.glob("*.jpg"))
    path.write_text("\n".join(names[-3:]))
    return path


def losses(output: Path, stage: str = "captions") -> list[float]:
    points = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [point["loss"] for point in points if point["stage"] == stage and "loss" in point]


def test_a_corpus_becomes_a_bundle(scenes: Path, tmp_path: Path) -> None:
    options = options_for(scenes, tmp_path / "out", result=ResultOptions(str(tmp_path / "out"), neighbours=True))
    bundle = TrainJob(options).run()
    captioner = Captioner.load(bundle)
    assert captioner.caption([str(next(scenes.glob("*.jpg")))], consensus=3)[0].text is not None
    assert captioner.consensus
    assert captioner.consensus.counts.tolist() == [5] * 9
    found = losses(tmp_path / "out")
    assert found[-1] < found[0]
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["status"] == "succeeded"
    assert record["stages"]["captions"]["steps"] == 2 * round(45 / 10)
    card = (Path(bundle) / "README.md").read_text()
    assert "show_tell" in card
    assert "9 images with 45 captions" in card
    # Another training on the same folder is refused.
    with pytest.raises(UsageError, match="epochs: 2, now 3"):
        TrainJob(options_for(scenes, tmp_path / "out", steps=StepOptions(epochs=3, batch_size=10, dtype="float32")))


@pytest.mark.slow
def test_a_stopped_training_says_what_it_keeps_and_goes_on(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped"
    command = [
        *(sys.executable, "-m", "captionkit", "train", "--corpus", str(scenes / "captions.jsonl"), "--min-count", "1"),
        *("--dev-list", str(dev_list(scenes)), "--output", str(output), "--decoder", "show_tell"),
        *("--encoder", "tiny_resnet", "--encoder-weights", "none", "--epochs", "2000", "--batch-size", "10"),
        *("--patience", "2000", "--decoder-options", "embed_size", "8", "hidden_size", "8"),
    ]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for _ in range(300):
            if (output / "metrics.jsonl").exists():
                break
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == STOPPED, said
    assert re.search(r"kept: the checkpoint of step [\d,]+ \(captions, epoch \d", said), said
    assert "stopped by SIGTERM; the same command goes on from here" in said
    assert "*** SIGTERM" not in said
    assert "Traceback" not in said
    assert json.loads((output / "training.json").read_text())["status"] == "stopped"


@pytest.mark.slow
def test_a_training_that_is_done_has_nothing_left_to_do_and_gives_the_same_bundle(scenes: Path, tmp_path: Path) -> None:
    options = options_for(scenes, tmp_path / "out")
    first = Captioner.load(TrainJob(options).run()).fingerprint
    assert Captioner.load(TrainJob(options).run()).fingerprint == first


@pytest.mark.slow
def test_a_teacher_s_captions_are_learnt_and_references_validate(scenes: Path, tmp_path: Path) -> None:
    table = str(tmp_path / "teacher")
    search = SearchOptions(beam=4, n_best=4)
    CaptionJob(CaptionOptions(InputOptions((str(scenes),)), OutputOptions(table), search=search)).run()
    known = options_for(scenes, tmp_path / "out")
    options = replace(
        known,
        corpus=replace(known.corpus, teacher=(table,), teacher_captions=3),
        scst=ScstOptions(scst_epochs=1, scst_batch=9, scst_samples=2),
        result=replace(known.result, neighbours=True),
    )
    captioner = Captioner.load(TrainJob(options).run())
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["stages"]["captions"]["steps"] == 2 * round(9 * 3 / 10)
    assert captioner.consensus
    assert captioner.consensus.counts.tolist() == [5] * 9
    card = (tmp_path / "out" / "bundle" / "README.md").read_text()
    assert "27 captions of 9 of 9 training images" in card


@pytest.mark.slow
def test_all_stages_follow_one_another(scenes: Path, tmp_path: Path) -> None:
    options = options_for(
        scenes,
        tmp_path / "out",
        network=NetworkOptions(
            decoder="top_down",
            encoder="tiny_resnet",
            encoder_weights="none",
            decoder_options={**SMALL, "attention_size": 16},
        ),
        steps=StepOptions(epochs=1, batch_size=10, accumulate=2, dtype="float32", scheduled_sampling=0.2),
        finetune=FinetuneOptions(finetune_epochs=1, finetune_batch=10),
        scst=ScstOptions(scst_epochs=1, scst_batch=5, scst_samples=2),
    )
    bundle = TrainJob(options).run()
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert list(record["stages"]) == ["captions", "finetune", "scst"]
    points = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("reward" in point for point in points if point["stage"] == "scst")
    assert Captioner.load(bundle).provenance["stages"].keys() == record["stages"].keys()


@pytest.mark.slow
def test_a_training_starts_from_a_captioner_with_its_encoder(scenes: Path, tmp_path: Path) -> None:
    start = Captioner.load()
    start.save(str(tmp_path / "start"))
    list(draw_folder(str(tmp_path / "others"), 6, 12, 96))
    known = options_for(
        scenes,
        tmp_path / "out",
        network=NetworkOptions(init=str(tmp_path / "start")),
        steps=StepOptions(epochs=1, batch_size=10, dtype="float32"),
        scst=ScstOptions(scst_epochs=1, scst_batch=5, scst_samples=2),
    )
    others = (str(tmp_path / "others" / "captions.jsonl"),)
    options = replace(known, corpus=replace(known.corpus, rehearsal=others, rehearsal_ratio=0.5))
    found = Captioner.load(TrainJob(options).run())
    assert found.vocabulary.words == start.vocabulary.words
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["stages"]["captions"]["steps"] == round((9 + 4) * 5 / 10)  # nine of its own, half as many of others
    assert "13 images with 65 captions" in (tmp_path / "out" / "bundle" / "README.md").read_text()
    weights = found.encoder.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in start.encoder.state_dict().items())


@pytest.mark.slow
def test_a_finished_training_is_trained_for_longer_as_its_refusal_says(scenes: Path, tmp_path: Path) -> None:
    first, longer = options_for(scenes, tmp_path / "out"), StepOptions(epochs=3, batch_size=10, dtype="float32")
    TrainJob(first).run()
    with pytest.raises(UsageError) as refusal:
        TrainJob(replace(first, steps=longer))
    advice = re.search(r"--init (\S+) --epochs (\S+) and another --output", str(refusal.value))
    assert advice
    more = options_for(
        scenes,
        tmp_path / "more",
        network=NetworkOptions(init=advice[1]),
        steps=replace(longer, epochs=float(advice[2])),
    )
    before, after = Captioner.load(advice[1]), Captioner.load(TrainJob(more).run())
    assert after.vocabulary.words == before.vocabulary.words
    assert after.fingerprint != before.fingerprint
    assert losses(tmp_path / "more")[0] < losses(tmp_path / "out")[0]


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(scenes: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        cluster = WorkerOptions(workers=workers, cache=str(scenes / "features"))
        TrainJob(options_for(scenes, tmp_path / str(workers), cluster=cluster)).run()
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


@pytest.mark.slow
def test_a_killed_job_resumes_with_the_same_curve(scenes: Path, tmp_path: Path) -> None:
    steps = StepOptions(epochs=6, batch_size=10, dtype="float32")
    validate = ValidateOptions(patience=50)
    TrainJob(options_for(scenes, tmp_path / "whole", steps=steps, validate=validate)).run()
    command = [
        *(sys.executable, "-m", "captionkit", "train", "--corpus", str(scenes / "captions.jsonl"), "--min-count", "1"),
        *("--dev-list", str(dev_list(scenes)), "--output", str(tmp_path / "killed"), "--decoder", "show_tell"),
        *("--encoder", "tiny_resnet", "--encoder-weights", "none", "--epochs", "6", "--batch-size", "10"),
        *("--dtype", "float32", "--patience", "50", "--cache", str(scenes / "features"), "--decoder-options"),
        *(word for name, value in SMALL.items() for word in (name, str(value))),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 300
        checkpoints = tmp_path / "killed" / "checkpoints" / "captions"
        while len(list(checkpoints.glob("checkpoint_*"))) < 2 and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint in 300 s"
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = len(losses(tmp_path / "killed")) if (tmp_path / "killed" / "metrics.jsonl").exists() else 0
    again = subprocess.run(command, env=environment, timeout=350, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "captions: resumes from the checkpoint at step" in again.stderr
    assert "object store" not in again.stderr
    assert done < len(losses(tmp_path / "killed"))
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)

"""Train on a cluster of several nodes: `python -m tests.deploy.training_nodes SCENES OUTPUT CPUS_PER_NODE WORKERS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from captionkit.training.job import TrainJob
from captionkit.training.options import (
    CorpusOptions,
    NetworkOptions,
    ResultOptions,
    StepOptions,
    TrainOptions,
    WorkerOptions,
)
from tests.deploy.nodes import Watch, nodes


def train(scenes: Path, output: Path, cpus: int, workers: int) -> dict[str, object]:
    options = TrainOptions(
        corpus=CorpusOptions(corpus=(str(scenes / "captions.jsonl"),), min_count=1, dev_list=str(scenes / "dev.txt")),
        result=ResultOptions(str(output)),
        network=NetworkOptions(
            decoder="show_tell",
            encoder="tiny_resnet",
            encoder_weights="none",
            decoder_options={"embed_size": 24, "hidden_size": 32, "dropout": 0.0},
        ),
        steps=StepOptions(epochs=2, batch_size=10, dtype="float32"),
        cluster=WorkerOptions(workers=workers, threads=1, cache=str(output / "features")),
    )
    with nodes(cpus, cpus, cpus):
        watch = Watch("RayTrainWorker")
        watch.start()
        bundle = TrainJob(options).run()
        return {"bundle": bundle, "workers": max(watch.counts), "nodes": len(watch.nodes)}


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))

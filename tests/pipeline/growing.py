"""A caption job on a cluster that grows under it: `python -m tests.pipeline.growing IMAGES OUTPUT FOLDER WHAT`.

WHAT happens once the pool is at its maximum: "idle" (captioners become so quick that most have nothing to do), or
"lose" (a node dies). The captioners are stubs that sleep, so that a machine of few cores can have many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import ray

from captionkit.cli.options import parse
from captionkit.model.captioner import Captioner
from captionkit.pipeline.caption_actor import ActorOptions, CaptionActor
from captionkit.pipeline.job import CaptionJob
from captionkit.pipeline.options import CaptionOptions
from tests.deploy.nodes import STORE, Watch, nodes

QUICK = "quick"
SECONDS = 0.05
"""Of one image, until the file QUICK is there."""


class Said(NamedTuple):
    text: str
    score: float


class Stub:
    """In the place of a `Captioner`."""

    fingerprint = "stub"

    def __init__(self, size: int, folder: str) -> None:
        self.preprocessing = SimpleNamespace(size=size)
        self.quick = Path(folder, QUICK)

    def caption_pixels(self, pixels: Any, *_: Any, **__: Any) -> list[list[Said]]:
        if not self.quick.exists():
            time.sleep(SECONDS * len(pixels))
        return [[Said("a picture", -1.0)] for _ in pixels]


class StubActor(CaptionActor):
    """As `CaptionActor`, without torch."""

    size = 0
    folder = ""

    def build(self, bundle: ray.ObjectRef, options: ActorOptions) -> Captioner:
        return Stub(self.size, self.folder)  # type: ignore[return-value]


LOW, HIGH = 1, 3


def job(images: str, output: str, folder: str) -> None:
    """The job alone, on the cluster that RAY_ADDRESS names."""
    actors = ("--actors", f"{LOW}:{HIGH}", "--batch-size", "16", "--fetch-threads", "2")
    options = parse(CaptionOptions, "caption", ["--input", images, "--output", output, *actors])
    captioner = CaptionJob(options, actor=StubActor)
    StubActor.size, StubActor.folder = captioner.preprocessing.size, folder
    assert captioner.run().status == "succeeded"


def cluster(images: str, output: str, folder: str, what: str) -> dict[str, Any]:
    """A cluster, the job on it, and what becomes of both."""
    with nodes(2) as cluster:
        watch = Watch("StubActor")
        watch.start()
        command = [sys.executable, "-m", "tests.pipeline.growing", "job", images, output, folder]
        process = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=sys.stderr)
        try:
            watch.wait_for(LOW, 120)
            more = [cluster.add_node(num_cpus=2, object_store_memory=STORE) for _ in range(3)]
            watch.wait_for(HIGH, 120)
            if what == "lose":
                cluster.remove_node(more[0], allow_graceful=False)
                watch.wait_for(HIGH - 1, 60)
            Path(folder, QUICK).touch()
            code = process.wait(200)
        finally:
            process.kill()
        return {"code": code, "steps": watch.steps(), "nodes": len(watch.nodes)}


if __name__ == "__main__":
    if sys.argv[1] == "job":
        job(*sys.argv[2:])
    else:
        print(json.dumps(cluster(*sys.argv[1:])))

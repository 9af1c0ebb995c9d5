"""Caption jobs whose machines let them down: `python -m tests.pipeline.nights WHAT IMAGES OUTPUT FOLDER`.

WHAT: "late" (the first machine comes after Ray's own timeout), "never" (none comes), "one" (the captioner cannot be
built on the first machine that tries), "all" (nor on any other). Prints the job's exit code and what it wrote as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray

from captionkit.cli import main
from captionkit.model.captioner import Captioner
from captionkit.pipeline.caption_actor import ActorOptions
from captionkit.pipeline.job import CaptionJob
from tests.deploy.nodes import STORE, nodes
from tests.pipeline.growing import QUICK, StubActor

BAD = "bad"
"""File that holds the Ray node on which no captioner can be built, or "all"."""
RAYS_TIMEOUT = "4"
"""Seconds without progress after which Ray Data alone would end the job."""


class Unbuildable(StubActor):
    """Fails on the machine that BAD names."""

    def build(self, bundle: ray.ObjectRef, options: ActorOptions) -> Captioner:
        here = ray.get_runtime_context().get_node_id()
        mark = Path(self.folder, BAD)
        if mark.exists():
            if not mark.read_text():
                mark.write_text(here)  # the first one
            if mark.read_text() in (here, "all"):
                raise RuntimeError("CUDA error: an uncorrectable ECC error")
        return super().build(bundle, options)


def job(images: str, output: str, folder: str, *args: str) -> int:
    """The command, on the cluster that RAY_ADDRESS names; its exit code."""
    (defaults := CaptionJob.__init__.__kwdefaults__)["actor"] = Unbuildable
    assert defaults
    Unbuildable.size, Unbuildable.folder = Captioner.load().preprocessing.size, folder
    options = ("--actors", "1:2", "--batch-size", "16", "--fetch-threads", "2")
    return main(["caption", "--input", images, "--output", output, *options, *args])


def night(what: str, images: str, output: str, folder: str, *args: str) -> dict[str, Any]:
    """A cluster, the job on it, and what becomes of both."""
    if what in ("one", "all"):
        Path(folder, BAD).write_text("all" if what == "all" else "")
    Path(folder, QUICK).touch()
    with nodes(*((2, 2) if what in ("one", "all") else ())) as cluster:
        environment = {
            **os.environ,
            "RAY_ADDRESS": cluster.address,
            "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": RAYS_TIMEOUT,
        }
        command = [sys.executable, "-m", "tests.pipeline.nights", "job", images, output, folder, *args]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        start = time.monotonic()
        try:
            if what == "late":
                while not list(Path(output, "_runs").glob("*.parquet")):
                    assert process.poll() is None
                    time.sleep(0.1)
                time.sleep(4 * float(RAYS_TIMEOUT))
                cluster.add_node(num_cpus=2, object_store_memory=STORE)
            written = process.communicate(timeout=200)[1]
        finally:
            process.kill()
        return {"code": process.returncode, "written": written, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    if sys.argv[1] == "job":
        sys.exit(job(*sys.argv[2:]))
    print(json.dumps(night(*sys.argv[1:])))

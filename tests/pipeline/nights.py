"""Caption jobs whose machines let them down: `python -m tests.pipeline.nights WHAT IMAGES OUTPUT FOLDER`.

WHAT: "late" (the first machine comes after Ray's own timeout), "never" (none comes), "one" (the captioner cannot be
built on the first machine that tries), "all" (nor on any other), "lose" (a machine is lost, and images that could not
be read the first time can be read the second). Prints the job's exit code and what it wrote as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ray

from captionkit.cli import main
from captionkit.model.captioner import Captioner
from captionkit.pipeline.caption_actor import ActorOptions
from captionkit.pipeline.job import CaptionJob
from tests.deploy.nodes import STORE, add_node, nodes
from tests.pipeline.growing import QUICK, StubActor

BAD = "bad"
"""File that holds the Ray node on which no captioner can be built, or "all"."""
FLAKY = "flaky"
"""File of the images that the server was asked for, one a line."""
RAYS_TIMEOUT = "4"
"""Seconds without progress after which Ray Data alone would end the job."""


class Unbuildable(StubActor):
    """Fails on the machine that BAD names."""

    fingerprint = ""

    def build(self, bundle: ray.ObjectRef, options: ActorOptions) -> Captioner:
        here = ray.get_runtime_context().get_node_id()
        mark = Path(self.folder, BAD)
        if mark.exists():
            if not mark.read_text():
                mark.write_text(here)  # the first one
            if mark.read_text() in (here, "all"):
                raise RuntimeError("CUDA error: an uncorrectable ECC error")
        stub = super().build(bundle, options)
        stub.fingerprint = self.fingerprint
        return stub


def job(images: str, output: str, folder: str, *args: str) -> int:
    """The command, on the cluster that RAY_ADDRESS names; its exit code."""
    (defaults := CaptionJob.__init__.__kwdefaults__)["actor"] = Unbuildable
    assert defaults
    captioner = Captioner.load()
    Unbuildable.size, Unbuildable.folder = captioner.preprocessing.size, folder
    Unbuildable.fingerprint = captioner.fingerprint
    options = ("--actors", "1:2", "--batch-size", "16", "--fetch-threads", "2")
    return main(["caption", "--input", images, "--output", output, *options, *args])


def night(what: str, images: str, output: str, folder: str, *args: str) -> dict[str, Any]:
    """A cluster, the job on it, and what becomes of both."""
    if what in ("one", "all"):
        Path(folder, BAD).write_text("all" if what == "all" else "")
    if what != "lose":
        Path(folder, QUICK).touch()
    with nodes(*{"one": (2, 2), "all": (2, 2), "lose": (2,)}.get(what, ())) as cluster:
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
                add_node(cluster, num_cpus=2, object_store_memory=STORE)
            if what == "lose":
                lost = add_node(cluster, num_cpus=2, object_store_memory=STORE)
                flaky = Path(folder, FLAKY)
                while len(flaky.read_text().splitlines()) < 600:
                    assert process.poll() is None
                    time.sleep(0.1)
                time.sleep(5)  # the captioners sleep: much is fetched, and little captioned
                cluster.remove_node(lost, allow_graceful=False)
                Path(folder, QUICK).touch()
            written = process.communicate(timeout=200)[1]
        finally:
            process.kill()
        return {"code": process.returncode, "written": written, "seconds": time.monotonic() - start}


def serve(images: str, folder: str) -> ThreadingHTTPServer:
    """Images over HTTP: each third one is not there when it is asked for the first time. FLAKY lists what was asked."""
    counts: Counter[str] = Counter()
    log = Path(folder, FLAKY).open("a", buffering=1)  # noqa: SIM115  (open as long as the server)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            counts[self.path] += 1
            log.write(f"{self.path}\n")
            if counts[self.path] == 1 and int(Path(self.path).stem) % 3 == 0:
                self.send_error(404)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=images))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    if sys.argv[1] == "job":
        sys.exit(job(*sys.argv[2:]))
    what, images, *rest = sys.argv[1:]
    if what == "lose":
        server = serve(images, rest[1])
        names = sorted(path.name for path in Path(images).iterdir())
        images = f"{rest[1]}/list.txt"
        Path(images).write_text("".join(f"http://127.0.0.1:{server.server_port}/{name}\n" for name in names))
    print(json.dumps(night(what, images, *rest)))

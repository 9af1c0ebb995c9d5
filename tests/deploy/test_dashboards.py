"""The Grafana dashboard asks for metrics that are there, and Prometheus finds them where Ray says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.dashboard.modules.metrics.grafana_dashboard_factory import (
    generate_data_grafana_dashboard,
    generate_default_grafana_dashboard,
)

from tests.support.archive import Folder
from tests.support.ray_head import Head, ray_head

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
METRIC = r"\b(?:ray|autoscaler)_[a-z_]+"
OWN = "ray_captionkit_"

NEED_MORE = {
    "ray_node_gpus_utilization": "a GPU",
    "autoscaler_active_nodes": "an autoscaler",
    "autoscaler_pending_nodes": "an autoscaler",
    "autoscaler_recently_failed_nodes": "an autoscaler",
}
"""What one machine without a GPU does not export, and why; that these are Ray's at all, the first test says."""


def asked() -> dict[str, set[str]]:
    """What the dashboard asks for: labels by metric."""
    found: dict[str, set[str]] = {}
    for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            names = re.findall(METRIC, target["expr"])
            assert names, target
            labels = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            for name in names:
                filters = re.findall(rf"{name}{{(\w+)=", target["expr"])
                found.setdefault(name, set()).update(labels, filters)
    return found


def test_every_metric_of_ray_s_is_one() -> None:
    known = set(re.findall(METRIC, generate_default_grafana_dashboard()[0] + generate_data_grafana_dashboard()[0]))
    names = {name for name in asked() if not name.startswith(OWN)}
    assert len(names) > 10
    assert names <= known
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_reads_the_list_that_ray_keeps() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [files] = job["file_sd_configs"]
    assert files["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


JOB = """
import sys
import ray
from captionkit.cli import main
ray.init(sys.argv[1], logging_level="ERROR")
code = main(["caption", "--input", sys.argv[2], "--output", sys.argv[3], "--batch-size", "16", "--actors", "1",
             "--beam", "1", "--max-failed", "0.5"])
print("code", code, flush=True)
sys.stdin.read()  # a driver's metrics go with it
"""


@contextlib.contextmanager
def head() -> Iterator[tuple[str, Path, dict[str, str]]]:
    """`ray start --head` with the port for metrics that cluster.yaml names; Ray's address, folder, environment."""
    folder = Path("/tmp") / f"ckm{os.getpid()}"  # a socket's path must be short
    env = {
        **os.environ,
        "HOME": str(folder),  # Ray leaves a token there
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",  # workers come up although the machine is busy
    }
    env.pop("RAY_ADDRESS", None)
    with ray_head(folder, env, lists_its_metrics, store=200 * 2**20, seconds=90) as started:
        yield started.address, folder, env


def lists_its_metrics(head: Head) -> bool:
    return (head.folder / PROMETHEUS_SERVICE_DISCOVERY_FILE).exists()


def scrape(folder: Path) -> dict[str, list[dict[str, str]]]:
    """As Prometheus does by deploy/prometheus.yml: the labels of each sample, by name of the metric."""
    found: dict[str, list[dict[str, str]]] = {}
    for group in json.loads((folder / PROMETHEUS_SERVICE_DISCOVERY_FILE).read_text()):
        for target in group["targets"]:
            with contextlib.suppress(OSError):  # not up yet
                text = urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode()
                for family in text_string_to_metric_families(text):
                    for sample in family.samples:
                        found.setdefault(sample.name, []).append({**sample.labels, "instance": target})
    return found


@pytest.mark.slow
def test_a_scrape_finds_every_metric_that_the_dashboard_names(folder: Folder, tmp_path: Path) -> None:
    for seed in range(20):
        folder.add(f"{seed}.jpg", seed)
    folder.add("bad.jpg", b"no picture")
    wanted = {name: labels for name, labels in asked().items() if name not in NEED_MORE}
    with head() as (address, place, env):
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(folder.path), str(tmp_path / "out")],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 150
            found: dict[str, list[dict[str, str]]] = {}
            while not wanted.keys() <= found.keys():
                assert job.poll() is None
                assert time.monotonic() < deadline, (wanted.keys() - found.keys(), sorted(found))
                time.sleep(1)
                # Ray Data's own go with its run, the driver's come after a while.
                found |= scrape(place)
            assert job.stdin
            out, _ = job.communicate(timeout=60)
            assert "code 0" in out
        finally:
            job.kill()
    for name, labels in wanted.items():
        assert any(labels <= sample.keys() for sample in found[name]), (name, labels, found[name][:2])
    assert {sample["status"] for sample in found["ray_captionkit_images_total"]} == {"captioned", "failed"}
    assert {sample["kind"] for sample in found["ray_captionkit_failures_total"]} == {"not_an_image"}
    assert {sample["stage"] for sample in found["ray_captionkit_stage_seconds_total"]} >= {"decode", "caption"}

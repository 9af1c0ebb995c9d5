"""The Grafana dashboard asks for metrics that Ray exports, and Prometheus looks where Ray writes its addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.dashboard.modules.metrics.grafana_dashboard_factory import (
    generate_data_grafana_dashboard,
    generate_default_grafana_dashboard,
)

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
METRIC = r"\b(?:ray|autoscaler)_[a-z_]+"


def test_every_metric_is_one_of_ray_s() -> None:
    known = set(re.findall(METRIC, generate_default_grafana_dashboard()[0] + generate_data_grafana_dashboard()[0]))
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = {
        name for panel in board["panels"] for target in panel["targets"] for name in re.findall(METRIC, target["expr"])
    }
    assert len(asked) > 10
    assert asked <= known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_reads_the_list_that_ray_keeps() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [files] = job["file_sd_configs"]
    assert files["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]

"""The KubeRay manifests: Kubernetes' published schemas, Ray's own reading of them, and ours of KubeRay's fields."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from captionkit.cli.exit_codes import BROKEN, OK, TIME_IS_UP, TOO_MANY_FAILED
from captionkit.pipeline.options import CaptionOptions

kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
JOBS = ["rayjob.yaml", "raycronjob.yaml"]
FILES = ["raycluster.yaml", *JOBS]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def resource(name: str) -> dict[str, Any]:
    [found] = [document for document in documents(name) if document["apiVersion"] == "ray.io/v1"]
    return found


def job_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = resource(name)["spec"]
    return spec.get("jobTemplate", spec)


def cluster_spec(name: str) -> dict[str, Any]:
    spec = job_spec(name)
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", FILES)
def test_kuberay_s_fields_are_kuberay_s(name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(resource(name))


@pytest.mark.parametrize(
    "slip", [{"rayversion": "2.60.0"}, {"workerGroupSpecs": [{"groupName": "gpu"}]}, {"headGroupSpec": {}}]
)
def test_a_slip_would_be_noticed(slip: dict[str, Any]) -> None:
    document = resource("raycluster.yaml")
    document["spec"] |= slip
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_knows_every_field_of_the_pods(name: str) -> None:
    for number, group in enumerate(groups(name)):
        pod = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": f"g{number}"},
            "template": group["template"],
        }
        kubernetes_validate.validate(pod, "1.31", strict=True)
    for document in documents(name):
        if document["apiVersion"] == "v1":
            kubernetes_validate.validate(document, "1.31", strict=True)


def test_kubernetes_would_have_refused_a_slip() -> None:
    template = groups("raycluster.yaml")[1]["template"]
    template["spec"]["toleration"] = []
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError, match="toleration"):
        kubernetes_validate.validate(pod, "1.31", strict=True)


@pytest.mark.parametrize("name", FILES)
def test_ray_s_autoscaler_reads_what_we_mean(name: str) -> None:
    found = {"metadata": {"name": "captionkit", "namespace": "default"}, "spec": cluster_spec(name)}
    types = _derive_autoscaling_config_from_ray_cr(found)["available_node_types"]
    head = types.pop("headgroup")
    assert head["resources"]["CPU"] == 0
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["cpu"]["resources"].get("GPU", 0) == 0
    assert all(kind["max_workers"] > 0 for kind in types.values())


def gibibytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) / (1 if unit == "Gi" else 1024)


@pytest.mark.parametrize("name", FILES)
def test_the_object_store_fits_dev_shm_and_that_the_memory(name: str) -> None:
    for group in groups(name):
        pod = group["template"]["spec"]
        [shm] = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        [mount] = pod["containers"][0]["volumeMounts"]
        assert (shm["medium"], mount["mountPath"]) == ("Memory", "/dev/shm")
        store = int(group["rayStartParams"]["object-store-memory"]) / 2**30
        limit = gibibytes(pod["containers"][0]["resources"]["limits"]["memory"])
        assert store < gibibytes(shm["sizeLimit"]) < limit / 2


@pytest.mark.parametrize("name", JOBS)
def test_the_job_s_cluster_is_the_standing_one_s(name: str) -> None:
    assert cluster_spec(name) == cluster_spec("raycluster.yaml")
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", JOBS)
def test_the_job_s_command_is_one_that_captionkit_takes(name: str) -> None:
    spec = job_spec(name)
    program, command, *words = spec["entrypoint"].partition(" || ")[0].split()
    assert (program, command) == ("captionkit", "caption")
    options = tyro.cli(CaptionOptions, args=words)
    assert options.cluster.gpus_per_actor == 0.5
    assert "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]


def test_the_night_s_end_is_no_failure_that_would_be_tried_again() -> None:
    entrypoint = job_spec("raycronjob.yaml")["entrypoint"]
    assert "--until" in entrypoint
    for code in (OK, BROKEN, TOO_MANY_FAILED, TIME_IS_UP):
        ended = subprocess.run(["bash", "-c", f"(exit {code}) || {entrypoint.partition(' || ')[2]}"], check=False)
        assert ended.returncode == (0 if code in (OK, TIME_IS_UP) else 1)


def test_rules_of_deletion_that_stand_as_a_comment_hold_too() -> None:
    text = (DEPLOY / "rayjob.yaml").read_text()
    rules = text[text.index("  # deletionStrategy:") : text.index("  activeDeadlineSeconds")]
    document = yaml.safe_load(text.replace(rules, rules.replace("  # ", "  ")))
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    del document["spec"]["shutdownAfterJobFinishes"], document["spec"]["ttlSecondsAfterFinished"]
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    document["spec"]["deletionStrategy"]["deletionRules"][0]["condition"]["jobDeploymentStatus"] = "Failed"
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


def test_the_image_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    copied = [word for line in re.findall(r"^COPY --chown=\S+ (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"captionkit", "jobs", "deploy/requirements.txt"} <= set(copied)
    assert all((ROOT / word).exists() for word in copied)
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == set(copied)

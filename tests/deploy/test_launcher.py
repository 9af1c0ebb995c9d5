"""cluster.yaml and its like: accepted by Ray's launcher, and as we mean them."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeAvailabilityRecord,
    NodeAvailabilitySummary,
)
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler, _fits
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from captionkit.pipeline.fetch import BLOCK_BYTES

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ["cluster.yaml", "deploy/cluster.local.yaml", "deploy/cluster.gcp.yaml"]


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_accepts_it(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_would_have_refused_a_slip(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(load(name) | {"idle_timeout": 5}))


@pytest.mark.parametrize("name", FILES)
def test_its_commands_are_shell_and_its_mounts_are_there(name: str) -> None:
    config = load(name)
    commands = [line for key, value in config.items() if key.endswith("commands") for line in value]
    assert len(commands) >= 6
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    for place in config["file_mounts"].values():
        assert (ROOT / place).is_dir()
    assert f"~/deploy/{Path('requirements.txt')}" in " ".join(config["setup_commands"])


@pytest.mark.parametrize(
    "name", [*FILES, "deploy/raycluster.yaml", "deploy/rayjob.yaml", "deploy/raycronjob.yaml", "deploy/Dockerfile"]
)
def test_it_holds_no_secret(name: str) -> None:
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|BEGIN [A-Z ]*PRIVATE KEY", (ROOT / name).read_text(), re.I)


@pytest.mark.parametrize("name", FILES)
def test_a_token_is_one_line_away(name: str) -> None:
    text = (ROOT / name).read_text()
    line = "  # ~/.ray/auth_token: ~/.ray/auth_token\n"
    assert line in text
    mounts = yaml.safe_load(text.replace(line, line.replace("# ", "")))["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert text.count("test ! -s ~/.ray/auth_token || export RAY_AUTH_MODE=token;") == 2


def test_five_lines_are_yours() -> None:
    marks = re.findall(r"# yours (\d)", (ROOT / "cluster.yaml").read_text())
    assert marks == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster.gcp.yaml"])
def test_the_head_runs_no_work_and_workers_come_from_nothing(name: str) -> None:
    types = load(name)["available_node_types"]
    head = types.pop("head")
    assert head["resources"]["CPU"] == 0
    assert {kind.get("min_workers", 0) for kind in types.values()} == {0}
    assert types["gpu_spot"]["resources"] == types["gpu_on_demand"]["resources"]
    assert sum(kind["max_workers"] for kind in types.values()) >= load(name)["max_workers"]


def test_a_fetch_task_fits_where_ray_does_not_find_out_the_memory() -> None:
    """Of AWS's machines Ray knows it. Of Google's it does not, and starts none for a task that asks for some."""
    demand = {"CPU": 1, "memory": 2 * BLOCK_BYTES}
    for name, kind in load("deploy/cluster.gcp.yaml")["available_node_types"].items():
        assert _fits(dict(kind["resources"]), demand) == (name != "head")


def test_spot_and_on_demand_differ_in_nothing_else() -> None:
    types = load("cluster.yaml")["available_node_types"]
    spot = dict(types["gpu_spot"]["node_config"])
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == types["gpu_on_demand"]["node_config"]


def ec2_types() -> dict[str, Any]:
    """What EC2 says of its machines, as moto brings it (importing moto takes seconds)."""
    spec = find_spec("moto")
    assert spec is not None
    assert spec.origin is not None
    place = Path(spec.origin).parent / "ec2" / "resources" / "instance_types.json.gz"
    types: dict[str, Any] = json.loads(gzip.decompress(place.read_bytes()))
    return types


def test_resources_are_what_the_machines_have() -> None:
    known = ec2_types()
    for name, kind in load("cluster.yaml")["available_node_types"].items():
        machine = known[kind["node_config"]["InstanceType"]]
        resources = kind["resources"]
        if name != "head":
            assert resources["CPU"] == machine["VCpuInfo"]["DefaultVCpus"]
        assert resources.get("GPU", 0) == sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
        # /dev/shm is half the memory; past that Ray would put the object store on the disk.
        assert resources["object_store_memory"] < machine["MemoryInfo"]["SizeInMiB"] * 2**20 / 2


def test_requirements_are_pyproject_s() -> None:
    lines = (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
    stripped = [line.partition("#")[0].strip() for line in lines]
    pinned = {pin.name.lower(): pin for pin in map(Requirement, filter(None, stripped))}
    text = (ROOT / "pyproject.toml").read_text()
    body = text[text.index("\ndependencies = [") :]
    wanted = [Requirement(item) for item in re.findall(r'^  "([^"]+)"', body[: body.index("\n]")], re.MULTILINE)]
    assert len(wanted) > 10
    for want in wanted:
        assert want.name.lower() in pinned, f"deploy/requirements.txt lacks {want.name}"
        pin = pinned.pop(want.name.lower())
        [spec] = pin.specifier
        assert spec.operator == "=="
        assert want.specifier.contains(spec.version), want.name
        assert want.extras <= pin.extras
    assert "boto3" in pinned  # the autoscaler's


def test_one_version_of_ray_everywhere() -> None:
    kubernetes = ["deploy/raycluster.yaml", "deploy/rayjob.yaml", "deploy/raycronjob.yaml"]
    names = [*FILES, *kubernetes, "deploy/Dockerfile", "deploy/requirements.txt"]
    text = "\n".join((ROOT / name).read_text() for name in names)
    found = re.findall(r'(?:ray\[[\w,]+\]==|ARG RAY=|rayVersion: ")(\d[\d.]*)', text)
    assert len(found) == 7
    assert len(set(found)) == 1


@pytest.mark.slow
def test_the_role_gives_the_profile_that_cluster_yaml_names() -> None:
    import boto3
    from moto import mock_aws

    buckets = {"ReadBuckets": "arn:aws:s3:::a/*", "WriteBuckets": "arn:aws:s3:::b/*", "ListBuckets": "arn:aws:s3:::a"}
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        boto3.client("cloudformation", "us-west-2").create_stack(
            StackName="role",
            TemplateBody=(ROOT / "deploy" / "aws-role.yaml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in buckets.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        iam = boto3.client("iam", "us-west-2")
        profile = load("cluster.yaml")["metadata"]["profile"]["Name"]
        [role] = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        archive = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="archive")["PolicyDocument"]
    allowed = [(statement["Action"], statement["Resource"]) for statement in archive["Statement"]]
    assert ("s3:GetObject", ["arn:aws:s3:::a/*"]) in allowed
    assert not any("*" in str(action) for action, _ in allowed)


def summary(**available: bool) -> NodeAvailabilitySummary:
    return NodeAvailabilitySummary(
        {name: NodeAvailabilityRecord(name, good, 0.0, None) for name, good in available.items()}
    )


def launched(demand: dict[str, int], summary: NodeAvailabilitySummary) -> list[str]:
    """The node types that Ray's older autoscaler would start for a demand on an empty cluster of cluster.yaml."""
    config = prepare_config(load("cluster.yaml"))
    scheduler = ResourceDemandScheduler(
        None, config["available_node_types"], config["max_workers"], config["head_node_type"], config["upscaling_speed"]
    )
    to_add, _ = scheduler.get_nodes_to_launch([], {"head": 1}, [demand], {}, [], {}, [], summary)
    return [name for name, count in to_add.items() if count]


@pytest.fixture
def as_cluster_yaml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the head's start command gives the autoscaler."""
    command = " ".join(load("cluster.yaml")["head_start_ray_commands"])
    settings = dict(re.findall(r"(\w+)=([^\s;]+)", command[: command.index("ray start")]))
    assert settings["RAY_enable_autoscaler_v2"] == "0"
    assert settings["PYTHONPATH"] == "$HOME/deploy"
    monkeypatch.syspath_prepend(str(ROOT / "deploy"))
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", settings["RAY_AUTOSCALER_UTILIZATION_SCORER"])


@pytest.mark.usefixtures("as_cluster_yaml_says")
@pytest.mark.parametrize(
    ("demand", "failed", "best"),
    [
        ({"GPU": 1}, {}, ["gpu_spot"]),
        ({"GPU": 1}, {"gpu_spot": False}, ["gpu_on_demand"]),
        ({"GPU": 1}, {"gpu_spot": True}, ["gpu_spot"]),
        ({"GPU": 1}, {"gpu_spot": False, "gpu_on_demand": False}, ["gpu_spot"]),
        ({"CPU": 1}, {}, ["cpu_spot"]),
        ({"CPU": 1}, {"cpu_spot": False}, ["cpu_spot"]),  # never a GPU machine for what needs none
        ({"GPU": 9}, {}, []),
    ],
)
def test_spot_first_then_on_demand(demand: dict[str, int], failed: dict[str, bool], best: list[str]) -> None:
    assert launched(demand, summary(**failed)) == best


def test_ray_s_own_scorer_takes_no_note_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day this fails, Ray has learnt it, and deploy/spot_first.py can go."""
    monkeypatch.delenv("RAY_AUTOSCALER_UTILIZATION_SCORER", raising=False)
    assert launched({"GPU": 1}, summary()) == launched({"GPU": 1}, summary(gpu_spot=False)) == ["gpu_spot"]


def test_nor_does_the_newer_autoscaler() -> None:
    """It lowers a type whose machines came and never ran Ray, not one that the cloud has none of."""
    monitor = CloudResourceMonitor()
    event = InstanceUpdateEvent(instance_type="gpu_spot", new_instance_status=Instance.ALLOCATION_FAILED)
    monitor.notify([event])
    assert monitor.get_recoverable_resource_availabilities() == {}
    event.new_instance_status = Instance.ALLOCATION_TIMEOUT
    monitor.notify([event])
    assert monitor.get_recoverable_resource_availabilities() == {"gpu_spot": 0.0}

"""cluster.yaml and deploy/cluster.local.yaml for real, on hosts of the machine's own (the lab; root is needed).

What is changed of the files is in `light`: sizes, since all hosts share this machine, and the set-up commands, since
hosts have no internet but see this machine's virtual environment. All else is as people get it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.lab import ROOT, STATE, Lab, ec2_lab, missing, plain_lab
from tests.support.archive import jpeg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(missing()), reason=str(missing())),
]

IMAGES = 300
"""Three units of the manifest: more than one worker has something to do."""

MANY = 1500
"""Enough to lose two hosts of three in the middle."""

DASHBOARD = "http://localhost:8265"


def light(name: str, **changes: Any) -> dict[str, Any]:
    """A cluster file with machines as small as this test needs them."""
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    config |= {"setup_commands": [], **changes}
    for kind, settings in config.get("available_node_types", {}).items():
        settings["resources"] = {"CPU": 0 if kind == "head" else 2, "memory": 10**9, "object_store_memory": 2 * 10**8}
        if "gpu" in kind:
            settings["max_workers"] = 0  # no GPU here
    return config


def put_config(config: dict[str, Any]) -> str:
    """Lay a cluster file on the operator's host."""
    (STATE / "hosts/ctl/root/cluster.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "~/cluster.yaml"


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(3)  # most ask by a command that takes a core for a second or two


def clone(lab: Lab) -> str:
    lab.run("ctl", "rm -rf ~/clone && git -c safe.directory='*' clone -q . ~/clone")
    return "~/clone"


def driver_exit_code(lab: Lab, log: str) -> int:
    match = re.search(r"raysubmit_\w+", log)
    assert match, log
    code = (
        "from ray.job_submission import JobSubmissionClient as C\n"
        f"print('code', C('http://localhost:8265').get_job_info('{match.group()}').driver_exit_code)"
    )
    return int(re.findall(r"code (\d+)", python(lab, "ctl", code))[-1])


# AWS


ROLE = """
import boto3, sys
boto3.client("cloudformation").create_stack(
    StackName="role", TemplateBody=open("deploy/aws-role.yaml").read(), Capabilities=["CAPABILITY_NAMED_IAM"],
    Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in (
        ("ReadBuckets", "arn:aws:s3:::archive/*"), ("WriteBuckets", "arn:aws:s3:::captions/*"),
        ("ListBuckets", "arn:aws:s3:::archive,arn:aws:s3:::captions"))])
s3 = boto3.client("s3")
for name in ("archive", "captions"):
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
pictures = [open(f"/var/lib/cluster-lab/shared/{n}.jpg", "rb").read() for n in range(10)]
for number in range(IMAGES):
    s3.put_object(Bucket="archive", Key=f"in/{number:04}.jpg", Body=pictures[number % 10])
"""

COUNT = """
from captionkit.table.table import CaptionTable
from captionkit.storage import Storage
rows = list(CaptionTable(ADDRESS, Storage()).rows())
print("rows", len(rows), "different", len({row["uri"] for row in rows}), "statuses", {row["status"] for row in rows})
"""


def pictures() -> None:
    for number in range(10):
        (STATE / "shared" / f"{number}.jpg").write_bytes(jpeg(number))


def python(lab: Lab, host: str, code: str) -> str:
    (STATE / "hosts" / host / "root" / "script.py").write_text(code)
    return lab.run(host, "PYTHONPATH=$PWD python ~/script.py")


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[tuple[Lab, Path]]:
    log = tmp_path / "ec2.log"
    with ec2_lab(Lab(), log) as lab:
        pictures()
        python(lab, "ctl", ROLE.replace("IMAGES", str(IMAGES)))
        yield lab, log


def running(state: Path = STATE) -> list[dict[str, Any]]:
    return [i for i in json.loads((state / "run" / "ec2.json").read_text()) if i["state"] in ("running", "pending")]


def test_aws_from_nothing_to_captions_to_nothing(aws: tuple[Lab, Path]) -> None:
    lab, log = aws
    config = put_config(light("cluster.yaml", idle_timeout_minutes=0.5))
    lab.run("ctl", f"ray up -y --no-config-cache {config}", timeout=600)
    assert [i["node_type"] for i in running()] == ["head"]

    tunnel = lab.start("ctl", f"ray dashboard --no-config-cache {config}")
    try:
        wait_until(lambda: "{" in lab.run("ctl", "curl -s http://localhost:8265/api/version || true"), 90, "the tunnel")
        job = lab.start(
            "ctl",
            f"cd {clone(lab)} && ray job submit --address {DASHBOARD} --working-dir . -- python jobs/caption.py"
            " --input s3://archive/in/ --output s3://captions/out --actors 1:2 --batch-size 16 --progress-seconds 5",
        )
        types: set[str] = set()
        while job.poll() is None:
            types |= {i["node_type"] for i in running()}
            time.sleep(1)
        output = job.communicate()[0]
        assert job.returncode == 0, output[-5000:]
        assert f"captioned {IMAGES}, failed 0" in output
        assert types == {"head", "cpu_spot"}
        assert driver_exit_code(lab, output) == 0
        counted = python(lab, "ctl", COUNT.replace("ADDRESS", "'s3://captions/out'"))
        assert f"rows {IMAGES} different {IMAGES} statuses {{'captioned'}}" in counted
        wait_until(lambda: [i["node_type"] for i in running()] == ["head"], 180, "workers go when they are idle")
    finally:
        tunnel.kill()
    lab.run("ctl", f"ray down -y {config}", timeout=180)
    wait_until(lambda: not running(), 60, "ray down leaves nothing")
    print(log.read_text())


# Machines at hand


@pytest.fixture
def local() -> Iterator[Lab]:
    with plain_lab(3, Lab()) as lab:
        for name in ("in", "out"):  # a lab that went before leaves what it shared
            shutil.rmtree(STATE / "shared" / name, ignore_errors=True)
        folder = STATE / "shared" / "in"
        folder.mkdir()
        for number in range(10):
            picture = jpeg(number, 320)
            for turn in range(MANY // 10):
                (folder / f"{turn:04}-{number}.jpg").write_bytes(picture)
        yield lab


def alive(lab: Lab) -> int:
    code = "import ray; ray.init('auto', logging_level='ERROR'); print('alive', sum(n['Alive'] for n in ray.nodes()))"
    return int(re.findall(r"alive (\d+)", python(lab, "h1", code))[-1])


def test_local_machines_lose_one_to_power_and_one_to_the_cable(local: Lab) -> None:
    lab = local
    provider = {"type": "local", "head_ip": "10.77.0.1", "worker_ips": ["10.77.0.2", "10.77.0.3"]}
    changes = light(
        "deploy/cluster.local.yaml", provider=provider, auth={"ssh_user": "root", "ssh_private_key": "~/.ssh/id_lab"}
    )
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        small = "ray start --object-store-memory=200000000 "
        changes[commands] = [command.replace("ray start ", small) for command in changes[commands]]
    # This machine's two cores less one would be one, which holds no actor of a pool planned for two.
    head = changes["head_start_ray_commands"]
    head[:] = [re.sub(r"--num-cpus=\$\(\(.*\)\)", "--num-cpus=2", command) for command in head]
    assert "--num-cpus=2 " in head[-1]
    config = put_config(changes)
    lab.run("ctl", f"ray up -y --no-config-cache {config}", timeout=600)
    wait_until(lambda: alive(lab) == 3, 240, "both workers are there")

    tunnel = lab.start("ctl", f"ray dashboard --no-config-cache {config}")
    try:
        wait_until(lambda: "{" in lab.run("ctl", "curl -s http://localhost:8265/api/version || true"), 90, "the tunnel")
        lab.run("ctl", f"cd {clone(lab)} && ray job submit --no-wait --submission-id night --address {DASHBOARD}"
                " --working-dir . -- python jobs/caption.py --input /mnt/cluster_storage/in"
                " --output /mnt/cluster_storage/out --actors 1:2 --batch-size 16 --progress-seconds 1")  # fmt: skip
        wait_until(lambda: "captioning: " in logs(lab), 300, "the first captions")
        lab.tool("poweroff", "h2")
        lab.tool("cut", "h3")
        assert not finished(lab), "the job was done before hosts were lost; give it more images"
        wait_until(lambda: finished(lab), 900, "the job ends without its workers")
        assert f"captioned {MANY:,}, failed 0" in logs(lab), logs(lab)[-4000:]
        counted = python(lab, "h1", COUNT.replace("ADDRESS", "'/mnt/cluster_storage/out'"))
        assert f"rows {MANY} different {MANY} statuses {{'captioned'}}" in counted
    finally:
        tunnel.kill()
    lab.tool("heal", "h3")
    lab.run("ctl", f"ray down -y {config}", timeout=180)


def logs(lab: Lab) -> str:
    return lab.run("ctl", f"ray job logs --address {DASHBOARD} night")


def finished(lab: Lab) -> bool:
    return (
        re.search("succeeded|failed|stopped", lab.run("ctl", f"ray job status --address {DASHBOARD} night")) is not None
    )

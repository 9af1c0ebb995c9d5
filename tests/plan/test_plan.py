"""The plan: what it measures is there, and what it reckons follows from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captionkit.cli import OK, USAGE, main
from captionkit.cli.options import parse
from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.options import CaptionOptions
from captionkit.plan.estimate import estimate
from captionkit.plan.options import BudgetOptions, NodeType, PlanOptions, node_types
from captionkit.plan.sample import Archive, Sample, list_archive
from captionkit.plan.settings import Settings, choose
from captionkit.storage import Storage
from tests.support.archive import Folder, tar_bytes

ROOT = Path(__file__).resolve().parent.parent.parent

RATES = st.floats(0.5, 5000)


def sample(decode: float, caption: float, device: str = "cpu", gpu: str = "") -> Sample:
    return Sample(
        images=100,
        decode_seconds=100 / decode,
        caption_seconds=100 / caption,
        captioned=100,
        device=device,
        gpu=gpu,
    )


@given(RATES, RATES, st.integers(1, 10**8), st.integers(1, 64))
def test_hours_and_dollars_follow_from_the_rates(decode: float, caption: float, images: int, nodes: int) -> None:
    types = {"cpu": NodeType(cpus=9, gpus=0, dollars=2.0, spot=1.0)}
    (row,) = estimate(BudgetOptions(nodes=(nodes,)), Archive(images), sample(decode, caption), types)
    assert row.images_per_second == pytest.approx(nodes * 8 / (1 / decode + 1 / caption))
    assert row.hours * 3600 >= images / row.images_per_second
    assert row.dollars == pytest.approx(row.hours * nodes * 2.0)
    assert row.spot_dollars == pytest.approx(row.dollars / 2)


def test_a_gpu_machine_is_short_of_what_is_slower() -> None:
    types = {"g": NodeType(cpus=5, gpus=1, dollars=1.0, gpu="T4")}
    for decode, expected, bound in ((10.0, 40.0, "decode"), (500.0, 300.0, "captions")):
        (row,) = estimate(BudgetOptions(nodes=(1,), gpu_rate=300.0), Archive(1000), sample(decode, 5.0), types)
        assert (row.images_per_second, row.bound) == (pytest.approx(expected), bound)


def test_the_speed_of_a_gpu_nobody_measured_is_not_guessed() -> None:
    types = {"g": NodeType(cpus=5, gpus=1, dollars=1.0, gpu="T4"), "c": NodeType(cpus=5, gpus=0, dollars=1.0)}
    assert {row.node_type for row in estimate(BudgetOptions(), Archive(9), sample(9, 9), types)} == {"c"}
    with pytest.raises(UsageError, match="--gpu-rate"):
        estimate(BudgetOptions(node_types=("g",)), Archive(9), sample(9, 9), types)
    measured = sample(9, 90, "cuda", "Tesla T4")
    assert {row.node_type for row in estimate(BudgetOptions(), Archive(9), measured, types)} == {"g"}
    with pytest.raises(UsageError, match="--node-types x: the price file has "):
        node_types(BudgetOptions(node_types=("x",)), Storage())


def test_cores_beside_a_starved_gpu_are_planned_where_they_pay() -> None:
    types = {
        "g": NodeType(cpus=5, gpus=1, dollars=10.0, spot=4.0, gpu="T4"),
        "c": NodeType(cpus=11, gpus=0, dollars=1.0),
        "dear": NodeType(cpus=11, gpus=0, dollars=5.0),
    }
    budget = BudgetOptions(nodes=(2,), gpu_rate=300.0)
    alone, fed, *_ = estimate(budget, Archive(10**6), sample(10.0, 5.0), types)
    assert (alone.machines, alone.images_per_second, alone.bound) == ("2 × g", pytest.approx(80), "decode")
    # 600 images a second want 60 cores: 8 are there, and 52 are 6 machines of 10.
    assert (fed.machines, fed.images_per_second, fed.bound) == ("2 × g + 6 × c", pytest.approx(600), "captions")
    assert fed.dollars == pytest.approx(fed.hours * (2 * 10 + 6 * 1))
    assert fed.dollars < alone.dollars
    assert fed.spot_dollars == pytest.approx(fed.hours * (2 * 4 + 6 * 1))
    only = BudgetOptions(nodes=(2,), gpu_rate=300.0, node_types=("g",))
    assert [row.machines for row in estimate(only, Archive(10**6), sample(10.0, 5.0), types)] == ["2 × g"]


def settings(of: Sample, types: dict[str, NodeType], **budget: Any) -> Settings:
    options = PlanOptions(InputOptions(("in",)), budget=BudgetOptions(**budget))
    rows = estimate(options.budget, Archive(10**6), of, types)
    return choose(options, of, rows, types)


def test_settings_name_workers_of_the_cluster_file_and_options_of_the_job() -> None:
    types = {"g": NodeType(cpus=5, gpus=2, dollars=10.0, gpu="T4"), "c": NodeType(cpus=11, gpus=0, dollars=1.0)}
    gpus = settings(sample(10.0, 150.0, "cuda", "Tesla T4"), types, nodes=(4,), hours=1.0)
    # 1,200 images a second: 120 cores, of which 16 are there.
    assert gpus.max_workers == {"gpu_spot": 4, "cpu_spot": 11}
    assert gpus.instance_types == {"gpu_spot": "g", "cpu_spot": "c"}
    assert gpus.arguments == "--actors 4:8 --gpus-per-actor 1 --batch-size 256"

    cpus = settings(sample(30.0, 10.0), {"c": types["c"]}, nodes=(4,))
    assert cpus.max_workers == {"gpu_spot": 0, "cpu_spot": 4}
    # An image takes a core a tenth of a second to caption, and a third of that to decode.
    assert cpus.arguments == "--actors 16:33 --gpus-per-actor 0 --batch-size 64"

    workers = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert set(gpus.max_workers) <= set(workers)
    job = ["--input", "a", "--output", "b", *gpus.arguments.split()]
    assert parse(CaptionOptions, "caption", job).cluster.actor_range() == (4, 8)


def test_settings_are_of_the_cheapest_machines_that_are_done_in_time() -> None:
    types = {"c": NodeType(cpus=11, gpus=0, dollars=1.0)}
    of = sample(30.0, 10.0)  # 75 images a second of one machine: a million in 3.7 hours
    for hours, nodes in ((8.0, 1), (2.0, 2), (0.5, 16), (0.01, 16)):
        assert settings(of, types, nodes=(1, 2, 16), hours=hours).max_workers["cpu_spot"] == nodes


def test_a_plan_of_a_mixed_archive(
    folder: Folder, pictures: list[bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(6):
        folder.add(f"{number}.jpg", pictures[number])
    folder.add("bad.jpg", b"not a picture")
    folder.add("a.tar", tar_bytes([(f"{n}.jpg", pictures[n]) for n in range(4)]))
    prices = tmp_path / "prices.yaml"
    prices.write_text("mine: {cpus: 4, gpus: 0, dollars: 0.5}\n")
    args = ["plan", "--input", str(folder.path), "--prices", str(prices), "--nodes", "1", "2", "--json"]
    assert main(args) == OK
    plan = json.loads(capsys.readouterr().out)
    assert plan["archive"]["kinds"] == {".jpg": 7, ".tar": 1}
    # 7 and 4; a tar this small is mostly the padding at its end.
    assert 11 <= plan["archive"]["images"] <= 14
    assert plan["sample"]["failed"] == {"not_an_image": 1}
    assert [row["nodes"] for row in plan["estimates"]] == [1, 2]
    assert not (folder.path / "_runs").exists()
    settings = plan["settings"]
    assert settings["instance_types"] == {"cpu_spot": "mine"}
    assert (settings["gpus_per_actor"], settings["batch_size"]) == (0, 64)
    assert main(args[:-1]) == OK
    shown = capsys.readouterr().out
    assert "2 × mine" in shown
    assert "cpu_spot: InstanceType mine, max_workers 1" in shown
    # Measured anew, so the number of actors may be another.
    assert re.search(r"The job: --actors \d+:\d+ --gpus-per-actor 0 --batch-size 64\n", shown)


def test_a_dry_run_is_the_plan_of_the_job_and_writes_nothing(
    folder: Folder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in range(3):
        folder.add(f"{seed}.jpg", seed)
    out = tmp_path / "out"
    args = ["caption", "--input", str(folder.path), "--output", str(out), "--batch-size", "32", "--beam", "1"]
    before = sorted(tmp_path.rglob("*"))
    running = ray.is_initialized()
    assert main([*args, "--dry-run"]) == OK
    shown = capsys.readouterr().out
    assert shown.startswith("3 images (3 × .jpg)")
    assert "--batch-size 32" in shown
    assert sorted(tmp_path.rglob("*")) == before
    assert ray.is_initialized() == running
    assert main([*args, "--dry-run", "--actors", "8:1"]) == USAGE  # what the job would complain of
    assert main(["caption", "--input", str(tmp_path / "none"), "--output", str(out), "--dry-run"]) == USAGE
    assert sorted(tmp_path.rglob("*")) == before


def test_prices_that_are_none(tmp_path: Path) -> None:
    assert all(node.cpus > 0 and node.dollars > 0 for node in node_types(BudgetOptions(), Storage()).values())
    bad = tmp_path / "prices.yaml"
    bad.write_text("mine: {cpus: many}\n")
    assert main(["plan", "--input", str(tmp_path), "--prices", str(bad)]) == USAGE


def test_copies_are_counted_and_left_out_where_they_would_be(bucket: str) -> None:
    storage = Storage()
    for name, data in {"a": b"one", "b": b"two", "c": b"one"}.items():
        storage.write(f"s3://{bucket}/{name}.jpg", data)
    for dedupe, images in ((False, 3), (True, 2)):
        options = PlanOptions(InputOptions((f"s3://{bucket}/",), dedupe=dedupe))
        archive, chosen = list_archive(options, storage, lambda _: None)
        assert (archive.images, archive.copies, len(chosen)) == (images, 1, images)


def test_images_that_bring_captions_are_no_work_where_they_are_skipped(folder: Folder) -> None:
    lines = "".join(f"{folder.add(f'{n}.jpg', n)},{'a dog' if n else ''}\n" for n in range(3))
    listing = folder.add("l.csv", f"uri,caption\n{lines}".encode())
    for existing, left in (("keep", 3), ("skip", 1)):
        inputs = InputOptions((listing,), carry=("caption=old",), existing=existing)  # type: ignore[arg-type]
        archive, chosen = list_archive(PlanOptions(inputs), Storage(), lambda _: None)
        assert (archive.images, archive.existing, len(chosen)) == (left, 3 - left, left)


def test_pages_that_are_to_be_rows_are_reckoned_with(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "black")]
    for name in ("a", "b"):
        first.save(folder.path / f"{name}.tif", save_all=True, append_images=others)
    folder.add("c.jpg", 1)
    assert main(["plan", "--input", str(folder.path), "--frame", "each", "--json", "--beam", "1"]) == OK
    plan = json.loads(capsys.readouterr().out)
    assert (plan["archive"]["paged"], plan["archive"]["images"], plan["sample"]["pages"]) == (2, 9, [4, 4])

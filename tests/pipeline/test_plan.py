"""The plan: what it measures is there, and what it reckons follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionkit.cli import OK, USAGE, main
from captionkit.pipeline.plan import NodeType, estimate, read_prices
from captionkit.pipeline.plan_sample import Archive, BudgetOptions, Sample
from captionkit.storage import Storage, UsageError
from tests.pipeline.conftest import Folder, tar_bytes

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
    with pytest.raises(UsageError, match="the price file has g, c"):
        estimate(BudgetOptions(node_types=("x",)), Archive(9), sample(9, 9), types)


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
    assert main(args[:-1]) == OK
    assert "2 × mine" in capsys.readouterr().out


def test_prices_that_are_none(tmp_path: Path) -> None:
    assert all(node.cpus > 0 and node.dollars > 0 for node in read_prices(None, Storage()).values())
    bad = tmp_path / "prices.yaml"
    bad.write_text("mine: {cpus: many}\n")
    assert main(["plan", "--input", str(tmp_path), "--prices", str(bad)]) == USAGE

"""The table from score to chance, as a bundle keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from captionkit.model.bundle import read_calibration
from captionkit.model.bundle_files import BundleError
from captionkit.model.calibration import Calibration

GOOD = Calibration((-2.0, -1.0), (0.1, 0.5), "as people's", 100, "beam 5")


def test_between_the_points_a_straight_line_and_beyond_them_the_last() -> None:
    assert GOOD.chance([-9, -2, -1.5, -1, 0]).tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])
    assert GOOD.chance([]).tolist() == []


def test_a_round_trip() -> None:
    stored = json.loads(json.dumps({"calibration": GOOD.to_json()}))
    assert read_calibration(stored) == GOOD
    assert read_calibration({}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [-1.0, -2.0]},
        {"scores": [-1.0, -1.0]},
        {"scores": []},
        {"scores": [-1.0]},
        {"scores": [-1.0, float("nan")]},
        {"scores": ["-2", "-1"]},
        {"scores": None},
        {"chances": [0.5, 0.1]},
        {"chances": [0.5, 1.1]},
        {"images": "many"},
    ],
)
def test_a_damaged_one_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"captioner.json: calibration: .*; copy the bundle anew"):
        read_calibration({"calibration": GOOD.to_json() | change})
    with pytest.raises(BundleError):
        read_calibration({"calibration": [change]})

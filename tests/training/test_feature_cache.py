"""The file from which a machine's workers read features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from captionkit.training.feature_cache import FeatureCache, write_feature_cache

VALUES = np.arange(24, dtype=np.float16).reshape(4, 2, 3)


def batches() -> list[pa.Table]:
    tables = []
    for rows in ([0, 1], [2, 3]):
        values = [VALUES[row].tobytes() for row in rows]
        tables.append(pa.table({"uri": [f"{row}.jpg" for row in rows], "values": pa.array(values, pa.binary())}))
    return tables


def test_rows_come_back_by_address_in_any_order(tmp_path: Path) -> None:
    write_feature_cache(batches(), 6, (2, 3), "float16", tmp_path / "cache")
    rows = FeatureCache(tmp_path / "cache", ["3.jpg", "0.jpg", "1.jpg"])
    for wanted in ([0, 1, 2], [2, 2, 0, 1, 0], [1]):
        found = rows.gather(np.array(wanted), torch.device("cpu"))
        assert np.array_equal(found.numpy(), VALUES[np.array([3, 0, 1])[wanted]])


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_feature_cache(batches(), 4, (2, 3), "float16", tmp_path / "cache")
    with pytest.raises(KeyError, match=r"9\.jpg"):
        FeatureCache(tmp_path / "cache", ["9.jpg"])


def test_what_was_cut_off_is_not_there(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield batches()[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_feature_cache(broken(), 4, (2, 3), "float16", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()

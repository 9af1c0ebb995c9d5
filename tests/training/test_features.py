"""Features: a grid's and their means in one pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from captionkit.images import Preprocessing
from captionkit.model.encoders import build_encoder
from captionkit.model.engines import Engine, has_openvino
from captionkit.pipeline.cluster import Pool
from captionkit.scenes import draw_folder
from captionkit.storage import Storage
from captionkit.training.features import COPIED_COLUMNS, EncoderSpec, _Encode, make_features

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="needs captionkit[openvino]")
SMALL = Preprocessing(size=64, resize=64)


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0", "resnet18"])
def test_the_pooled_encoder_is_known_where_it_gives_the_grid_s_mean(name: str) -> None:
    grid = build_encoder(name, "grid", "none", SMALL)
    found = EncoderSpec.of(grid).pooled()
    assert found is not None
    # Known by the same name as one that was built for itself.
    own = build_encoder(name, "pooled", grid.network.state_dict(), SMALL)
    assert found.fingerprint() == EncoderSpec.of(own).fingerprint()
    assert found.pooled() is None


def test_pooled_features_that_are_no_mean_are_not_taken_for_it() -> None:
    assert EncoderSpec.of(build_encoder("mobilenet_v3_small", "grid", "none", SMALL)).pooled() is None
    # 5 x 5 places averaged to 3 x 3 overlap.
    uneven = build_encoder("squeezenet1_1", "grid", "none", replace(SMALL, size=96, resize=96), grid=3)
    assert EncoderSpec.of(uneven).pooled() is None


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.usefixtures("ray_cluster")
def test_an_engine_s_features_are_the_encoder_s(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = build_encoder("squeezenet1_1", "grid", "none", SMALL)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    rows: dict[str, list[object]] = {name: [None] * 3 for name in COPIED_COLUMNS}
    batch = pa.table({**rows, "pixels": pa.array([pixels[0].tobytes(), None, pixels[1].tobytes()], pa.binary())})
    made = _Encode(ray.put(EncoderSpec.of(encoder)), "cpu", 1, engine, True)(batch)
    with torch.inference_mode():
        grid = encoder(torch.from_numpy(pixels)).numpy()
    for column, expected in (("values", grid), ("means", grid.mean(axis=1))):
        first, failed, second = made.column(column).to_pylist()
        assert failed is None
        values = np.frombuffer(first + second, np.float16).reshape(expected.shape)
        np.testing.assert_allclose(values.astype(np.float32), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_grid_and_its_means_are_made_in_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list(draw_folder(str(tmp_path / "scenes"), 3, 0, 64))
    images = [str(path) for path in sorted((tmp_path / "scenes").glob("*.jpg"))]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images.append(str(tmp_path / "broken.jpg"))
    spec = EncoderSpec.of(build_encoder("squeezenet1_1", "grid", "none", SMALL))
    pool = Pool(1, 1, 0.0, 0.5, 0.5, 1)
    grid = make_features(images, spec, str(tmp_path / "features"), Storage(), pool)
    capsys.readouterr()
    twin = spec.pooled()
    assert twin is not None
    pooled = make_features(images, twin, str(tmp_path / "features"), Storage(), pool)
    assert "4 images, all computed before" in capsys.readouterr().err
    assert list(pooled.failed) == list(grid.failed) == [images[-1]]
    values = [
        {
            row["uri"]: np.frombuffer(row["values"], np.float16).reshape(shape).astype(np.float32)
            for file in found.files
            for row in pq.read_table(file).to_pylist()
            if row["values"]
        }
        for found, shape in ((grid, grid.shape), (pooled, (1, *pooled.shape)))
    ]
    for image in images[:3]:
        np.testing.assert_allclose(values[0][image].mean(0), values[1][image][0], rtol=2e-3, atol=1e-3)

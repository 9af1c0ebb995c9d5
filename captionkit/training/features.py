"""What the encoder makes of every image, once: a Ray Data job into a table that later runs find again.

A features table is built like the caption table, and by the same parts: one row per image, found or failed; a rerun
makes only what is missing or has changed. Its folder's name holds the encoder's fingerprint, so another encoder,
other weights or another preprocessing mean another table.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from captionkit.images import Limits
from captionkit.model.encoders import Encoder, build_encoder
from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.describe import pixels_of
from captionkit.pipeline.fetch import FetchOptions
from captionkit.pipeline.flow import flow
from captionkit.pipeline.inputs import Inputs, Item
from captionkit.pipeline.lease import Lease
from captionkit.pipeline.manifest import delete_manifest, make_manifest, replace_changed
from captionkit.pipeline.options import InputOptions
from captionkit.pipeline.progress import Meter, say
from captionkit.pipeline.table import CaptionTable, Footer
from captionkit.pipeline.writer import TableWriter
from captionkit.storage import Storage, StorageOptions, split_member
from captionkit.training.feature_cache import Rows, ingest

STORED = ["uri", "image_id", "values", "error_kind", "error"]
PASSED = ["uri", "image_id", "version", "total", "error_kind", "error"]
STAT_CHUNK = 4096
READ_CPUS = 0.1
"""What a task that reads features asks of Ray."""
FILE_BYTES = 256 * 2**20
"""Size of a features file."""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder as it travels to actors: what `build_encoder` takes, and its weights."""

    config: dict[str, Any]
    preprocessing: Any
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderSpec:
        return cls(encoder.config, encoder.preprocessing, encoder.network.state_dict())

    def build(self) -> Encoder:
        return build_encoder(**self.config, weights=self.weights, preprocessing=self.preprocessing)

    def fingerprint(self) -> str:
        """Of all that decides the features: architecture, weights, preprocessing."""
        known = json.dumps([self.config, self.preprocessing.to_json()], sort_keys=True)
        digest = hashlib.blake2b(known.encode(), digest_size=8)
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class FeatureSet:
    """A features table that has a row for every image asked for."""

    files: tuple[str, ...]
    rows: int
    shape: tuple[int, ...]
    dtype: str
    key: str
    failed: dict[str, str] = field(default_factory=dict)
    """Addresses of images that could not be read, with the reason."""

    def dataset(self, storage: StorageOptions) -> ray.data.Dataset:
        """Rows of `uri` and `values`, for `captionkit.training.feature_cache`."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # They run beside training workers, which may leave no whole CPU: asking for one would wait for ever.
        return ray.data.read_datasource(
            _FileSource(self.files, storage),
            override_num_blocks=len(self.files),
            num_cpus=READ_CPUS,
        )


def make_features(
    images: Sequence[str],
    spec: EncoderSpec,
    folder: str,
    storage: Storage,
    pool: Pool,
    *,
    pixels: bool = False,
    batch_size: int = 64,
    progress_seconds: float = 30.0,
) -> FeatureSet:
    """The features of images, those made that are not in the table yet.

    Args:
        images: addresses; members of tar shards are read with their whole shard, once.
        folder: where features tables lie, each under its key.
        pixels: keep the pixels (S, S, 3) uint8 that the encoder would read, instead of features as fp16.

    Raises:
        StorageError: storage fails in a way that would fail every image alike.
    """
    key = f"pixels-{_digest(spec.preprocessing.to_json())}" if pixels else spec.fingerprint()
    uri, run_id = f"{folder.rstrip('/')}/{key}", secrets.token_hex(4)
    shape = _shape(spec, pixels)
    with Lease(uri, storage, run_id) as lease:
        table = CaptionTable(uri, storage)
        manifest = make_manifest(_Wanted(images, storage), table, f"{table.uri}/_{run_id}.manifest")
        try:
            replace_changed(manifest, table)
            if manifest.units:
                fetch = FetchOptions(
                    storage=storage.options,
                    preprocessing=spec.preprocessing,
                    limits=Limits(),
                    threads=16,
                    image_column=None,
                    carry=(),
                    done=ray.put(table.ids_within(manifest.partial)) if manifest.partial else None,
                )
                arguments = (None if pixels else ray.put(spec), pool.device, pool.threads)
                size = int(np.prod(shape)) * (1 if pixels else 2)
                writer = TableWriter(
                    table,
                    run_id,
                    Footer(key, {}, {}),
                    STORED,
                    flush_rows=max(1, FILE_BYTES // size),
                    flush_seconds=600.0,
                    name="features",
                    before_write=lease.check,
                )
                total = None if manifest.unknown else manifest.images
                with Meter("pixels" if pixels else "features", "images", total, progress_seconds) as meter:
                    _write(flow(manifest.units, fetch, pool, _Encode, arguments, batch_size), writer, meter)
            else:
                say(f"features: all {len(images):,} are there ({key})")
        finally:
            delete_manifest(manifest.units, storage)
    table = CaptionTable(table.uri, storage)
    failed = {
        row["uri"]: f"{row['error_kind']}: {row['error']}"
        for row in table.rows(["uri", "error_kind", "error"])
        if row["error_kind"] is not None
    }
    return FeatureSet(
        files=tuple(file.uri for file in table.files),
        rows=len(table),
        shape=shape,
        dtype="uint8" if pixels else "float16",
        key=key,
        failed=failed,
    )


def pooled_features(features: FeatureSet, images: Sequence[str], storage: StorageOptions) -> torch.Tensor:
    """Features of some images, (n, D) in fp16: the mean over all places of a grid.

    Raises:
        KeyError: an image whose features are not there.
    """

    def pool(batch: pa.Table) -> pa.Table:
        column = batch.column("values").to_pylist()
        values = np.frombuffer(b"".join(column), features.dtype).reshape(len(batch), -1, features.shape[-1])
        means = values.mean(axis=1, dtype=np.float32).astype(np.float16)
        return batch.select(["uri"]).append_column("values", pa.array([row.tobytes() for row in means], pa.binary()))

    rows = features.dataset(storage).map_batches(pool, batch_size=256, batch_format="pyarrow", num_cpus=READ_CPUS)
    with TemporaryDirectory() as folder:
        pooled = Path(folder) / "pooled"
        batches = rows.iter_batches(batch_size=256, batch_format="pyarrow")
        ingest(batches, features.rows, features.shape[-1:], "float16", pooled)
        return Rows(pooled, images).gather(np.arange(len(images)), torch.device("cpu"))


def _write(rows: ray.data.Dataset, writer: TableWriter, meter: Meter) -> None:
    count = 0
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            writer.add(batch)
            count += len(batch)
            meter.update(count)
    finally:
        writer.flush()


def _shape(spec: EncoderSpec, pixels: bool) -> tuple[int, ...]:
    size = spec.preprocessing.size
    if pixels:
        return size, size, 3
    with torch.inference_mode():
        return tuple(spec.build()(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1:])


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


class _Wanted(Inputs):
    """Images of a corpus as the manifest's inputs: each by itself, or the shards that hold them."""

    def __init__(self, images: Sequence[str], storage: Storage) -> None:
        super().__init__(InputOptions(input=()), storage)
        self._images = images

    def items(self) -> Iterator[Item]:
        shards: dict[str, None] = {}
        single: list[str] = []
        for image in self._images:
            container, member = split_member(image)
            if member:
                shards[container] = None
            else:
                single.append(image)
        for kind, addresses in (("tar", iter(shards)), ("image", iter(single))):
            while chunk := list(islice(addresses, STAT_CHUNK)):
                for entry in self.storage.stat_many(chunk):
                    yield Item(entry.uri, entry.version, entry.size, kind)  # type: ignore[arg-type]


class _Encode:
    """An actor: pixels in, features out as fp16 bytes; without an encoder the pixels as they are."""

    def __init__(self, spec: ray.ObjectRef | None, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = device
        self.encoder = None if spec is None else ray.get(spec).build().to(device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.encoder is None:
            values = batch.column("pixels")
        else:
            pixels = pixels_of(batch.column("pixels"), self.encoder.preprocessing.size)
            rows = iter(self._features(pixels) if len(pixels) else [])
            fine = batch.column("pixels").is_valid().to_pylist()
            values = pa.chunked_array([pa.array([next(rows).tobytes() if ok else None for ok in fine], pa.binary())])
        return batch.select(PASSED).append_column("values", values.cast(pa.binary()))

    @torch.inference_mode()
    def _features(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float16]]:
        assert self.encoder is not None
        features = self.encoder(torch.from_numpy(pixels.copy()).to(self.device)).cpu()
        # Beyond fp16's range there is nothing to be learnt from a feature; infinities would spoil the training.
        found: np.ndarray[Any, np.dtype[np.float16]] = features.float().clamp_(-65504, 65504).half().numpy()
        return found


class _FileSource(Datasource):  # type: ignore[misc]  # Ray publishes no types
    """Features files as a Ray Data source, read as the rest of this project reads storage."""

    def __init__(self, files: Sequence[str], storage: StorageOptions) -> None:
        super().__init__()
        self._files, self._storage = files, storage

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        storage = self._storage
        return [ReadTask(lambda file=file: _read(file, storage), metadata) for file in self._files]


def _read(file: str, storage: StorageOptions) -> Iterator[pa.Table]:
    with Storage(storage).open(file) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=256, columns=["uri", "values"]):
            table = pa.Table.from_batches([batch])
            yield table.filter(table.column("values").is_valid())

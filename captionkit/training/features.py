"""The features table: the encoder's output for every image, computed once by a Ray Data job.

It is written like a caption table, by the same code: one row per image, failed ones included, and a rerun computes only
rows that are missing or whose image has changed. The folder's name is the encoder's fingerprint, so another encoder,
other weights or another preprocessing have a table of their own.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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

from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.images import Limits
from captionkit.inputs.images import Images
from captionkit.inputs.kinds import InputItem
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.model.encoders import Encoder, EncoderError, build_encoder
from captionkit.model.engines import Encode, Engine, engine_for, make_encode
from captionkit.pipeline.caption_actor import pixels_of
from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.fetch import FetchOptions
from captionkit.pipeline.manifest import delete_manifest, make_manifest, replace_changed
from captionkit.pipeline.stream import caption_stream
from captionkit.progress import Meter, log_line
from captionkit.storage import Storage, split_member, without_page
from captionkit.storage.spread import Spread
from captionkit.table.lease import Lease
from captionkit.table.table import CaptionTable, Footer
from captionkit.table.writer import TableWriter
from captionkit.training.feature_cache import FeatureCache, write_feature_cache

STORED_COLUMNS = ["uri", "image_id", "values", "error_kind", "error"]
COPIED_COLUMNS = ["uri", "image_id", "version", "container_rows", "error_kind", "error"]
STAT_CHUNK = 4096
"""Images whose size and version are asked for together."""
FILE_BYTES = 256 * 2**20
"""Approximate size of a features file."""
READERS = 4
"""Features files that a machine reads at a time, and holds in memory."""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder as it is sent to actors and workers: the arguments of `build_encoder`, and the weights."""

    config: dict[str, Any]
    preprocessing: Any
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderSpec:
        return cls(encoder.config, encoder.preprocessing, encoder.network.state_dict())

    def build(self) -> Encoder:
        return build_encoder(**self.config, weights=self.weights, preprocessing=self.preprocessing)

    def pooled(self) -> EncoderSpec | None:
        """Of an encoder of a grid the one of pooled features, if these are the mean of its grid; else None."""
        if self.config["output"] != "grid":
            return None
        config = {name: value for name, value in self.config.items() if name != "grid"} | {"output": "pooled"}
        try:
            twin = build_encoder(**config, weights=self.weights, preprocessing=self.preprocessing)
        except EncoderError:  # its pooled features come of further layers, as VGG's
            return None
        size = self.preprocessing.size
        pixels = torch.randint(0, 256, (1, size, size, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        with torch.inference_mode():
            means, pooled = self.build()(pixels).mean(dim=1), twin(pixels)
        same = means.shape == pooled.shape and torch.allclose(means, pooled, rtol=1e-3, atol=1e-4)
        return EncoderSpec.of(twin) if same else None

    def fingerprint(self) -> str:
        """Fingerprint of everything that the features depend on: architecture, weights, preprocessing."""
        config = json.dumps([self.config, self.preprocessing.to_json()], sort_keys=True)
        digest = hashlib.blake2b(config.encode(), digest_size=8)
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class FeatureSet:
    """A features table with a row for every requested image."""

    files: tuple[str, ...]
    """Addresses of its Parquet files."""
    rows: int
    shape: tuple[int, ...]
    """Shape of one image's features."""
    dtype: str
    """float16, or uint8 for pixels."""
    key: str
    """Name of the table's folder: the fingerprint."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons why images could not be read, by address."""


def read_features(files: Sequence[str], storage: Storage) -> Iterator[pa.Table]:
    """The rows of features files whose image was readable: tables of `uri` and `values`, file after file.

    `READERS` files are read at a time. Each machine of a training reads them all, once.
    """

    def read(file: str) -> list[pa.Table]:
        with storage.open(file) as stream:
            batches = pq.ParquetFile(stream).iter_batches(batch_size=256, columns=["uri", "values"])
            tables = [pa.Table.from_batches([batch]) for batch in batches]
        return [table.filter(table.column("values").is_valid()) for table in tables]

    with ThreadPoolExecutor(READERS) as pool:
        for tables in Spread(pool, READERS).map(read, files):
            yield from tables


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
    """The features of images; those that are not in the table yet are computed.

    With those of a grid come the pooled ones, where these are their mean and there are none yet: another decoder may
    want them, and the encoder is what takes the time.

    Args:
        images: addresses. For members of tar shards, the whole shard is read, once.
        folder: of all features tables, each in a folder with its key.
        pixels: store the encoder's input, (S, S, 3) uint8, instead of its features in fp16.

    Raises:
        StorageError: storage fails in a way that would fail every image.
    """
    key = f"pixels-{_digest(spec.preprocessing.to_json())}" if pixels else spec.fingerprint()
    uri, run_id = f"{folder.rstrip('/')}/{key}", secrets.token_hex(4)
    shape = _shape(spec, pixels)
    with Lease(uri, storage, run_id) as lease:
        table = CaptionTable(uri, storage)
        manifest = make_manifest(_CorpusImages(images, storage), table, f"{table.uri}/_{run_id}.manifest")
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
                size = int(np.prod(shape)) * (1 if pixels else 2)
                writers = [_writer(table, key, size, run_id, lease)]
                total = None if manifest.unknown else manifest.images
                with (
                    _pooled_writer(None if pixels else spec.pooled(), folder, run_id, writers, storage),
                    Meter("pixels" if pixels else "features", "images", total, progress_seconds) as meter,
                ):
                    sent, engine = None if pixels else ray.put(spec), engine_for("auto", total)
                    arguments = (sent, pool.device, pool.threads, engine, len(writers) > 1)
                    _write(caption_stream(manifest.units, fetch, pool, _Encode, arguments, batch_size), writers, meter)
            else:
                log_line(f"features: {counted(len(images), 'image')}, all computed before ({key})")
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


def pooled_features(features: FeatureSet, images: Sequence[str], storage: Storage) -> torch.Tensor:
    """Features of images, (n, D) in fp16; those of a grid are averaged over its places.

    Raises:
        KeyError: an image without features.
    """

    def pool(batch: pa.Table) -> pa.Table:
        column = batch.column("values").to_pylist()
        values = np.frombuffer(b"".join(column), features.dtype).reshape(len(batch), -1, features.shape[-1])
        means = values.mean(axis=1, dtype=np.float32).astype(np.float16)
        return batch.select(["uri"]).append_column("values", pa.array([row.tobytes() for row in means], pa.binary()))

    with TemporaryDirectory() as folder:
        pooled = Path(folder) / "pooled"
        batches = map(pool, read_features(features.files, storage))
        write_feature_cache(batches, features.rows, features.shape[-1:], "float16", pooled)
        return FeatureCache(pooled, images).gather(np.arange(len(images)), torch.device("cpu"))


def _writer(table: CaptionTable, key: str, size: int, run_id: str, lease: Lease) -> TableWriter:
    """A writer of features of so many bytes an image."""
    return TableWriter(
        table,
        run_id,
        Footer(key, {}, {}),
        STORED_COLUMNS,
        flush_rows=max(1, FILE_BYTES // size),
        flush_seconds=600.0,
        name="features",
        before_write=lease.check,
    )


@contextmanager
def _pooled_writer(
    spec: EncoderSpec | None, folder: str, run_id: str, writers: list[TableWriter], storage: Storage
) -> Iterator[None]:
    """Meanwhile a second writer stands among `writers`, if there is such an encoder and no table of its features."""
    if spec is None:
        yield
        return
    key = spec.fingerprint()
    table = CaptionTable(f"{folder.rstrip('/')}/{key}", storage)
    if table.files:
        yield
        return
    with ExitStack() as held:
        try:
            lease = held.enter_context(Lease(table.uri, storage, run_id))
        except UsageError:  # another job is about to compute just these
            pass
        else:
            writers.append(_writer(table, key, 2 * _shape(spec, pixels=False)[0], run_id, lease))
        yield


def _write(rows: ray.data.Dataset, writers: Sequence[TableWriter], meter: Meter) -> None:
    """Write what comes, to the first writer the features, to a second one their means."""
    count = 0
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for writer, column in zip(writers, ("values", "means"), strict=False):
                writer.add(batch.select(COPIED_COLUMNS).append_column("values", batch.column(column)))
            count += len(batch)
            meter.update(count)
    finally:
        for writer in writers:
            writer.flush()


def _shape(spec: EncoderSpec, pixels: bool) -> tuple[int, ...]:
    size = spec.preprocessing.size
    if pixels:
        return size, size, 3
    with torch.inference_mode():
        return tuple(spec.build()(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1:])


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


class _CorpusImages(Inputs):
    """The images of a corpus as inputs of a manifest: single images, and the shards that contain images."""

    def __init__(self, images: Sequence[str], storage: Storage) -> None:
        super().__init__(InputOptions(input=()), storage)
        self._images = images

    def pieces(self) -> Iterator[Images | InputItem]:
        shards: dict[str, None] = {}
        single: list[str] = []
        for image in self._images:
            container, member = split_member(image)
            if member and container != without_page(image):
                shards[container] = None
            else:
                single.append(image)
        for kind, addresses in (("tar", iter(shards)), ("image", iter(single))):
            while chunk := list(islice(addresses, STAT_CHUNK)):
                for entry in self.storage.stat_many(chunk):
                    yield InputItem(entry.uri, entry.version, entry.size, kind)  # type: ignore[arg-type]


class _Encode:
    """An actor that turns pixels into features, as fp16 bytes; without an encoder it returns the pixels.

    The encoder computes in float32, whatever the training does: features are kept, and read by other machines.

    Args:
        engine: what computes it on a CPU.
        means: also give the mean of each image's grid.
    """

    def __init__(self, spec: ray.ObjectRef | None, device: str, threads: int, engine: Engine, means: bool) -> None:
        torch.set_num_threads(threads)
        self.device, self.means = torch.device(device), means
        self.encode: Encode | None = None
        if spec is not None:
            known: EncoderSpec = ray.get(spec)
            self.size = known.preprocessing.size
            self.encode, _ = make_encode(known.build(), self.device, torch.float32, engine, known.fingerprint())

    def __call__(self, batch: pa.Table) -> pa.Table:
        copied = batch.select(COPIED_COLUMNS)
        if self.encode is None:
            return copied.append_column("values", batch.column("pixels").cast(pa.binary()))
        pixels = pixels_of(batch.column("pixels"), self.size)
        features = self._features(pixels) if len(pixels) else np.empty(0, np.float16)
        readable = batch.column("pixels").is_valid().to_pylist()
        made = copied.append_column("values", _binary(features, readable))
        if self.means:
            means = features.mean(axis=1, dtype=np.float32).astype(np.float16) if len(pixels) else features
            made = made.append_column("means", _binary(means, readable))
        return made

    @torch.inference_mode()
    def _features(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float16]]:
        assert self.encode is not None
        features = self.encode(torch.from_numpy(pixels.copy()).to(self.device)).cpu()
        # Clamped to fp16's range: infinities would spoil the training.
        half: np.ndarray[Any, np.dtype[np.float16]] = features.float().clamp_(-65504, 65504).half().numpy()
        return half


def _binary(values: np.ndarray[Any, np.dtype[np.float16]], readable: Sequence[bool]) -> pa.Array:
    """The rows of values as bytes, null where an image was not readable."""
    rows = iter(values)
    return pa.array([next(rows).tobytes() if ok else None for ok in readable], pa.binary())

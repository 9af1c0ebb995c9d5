"""The stream through Ray Data: fetch tasks on CPUs feed a pool of actors that hold a network."""

from __future__ import annotations

from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.fetch import FetchOptions, ManifestDatasource
from captionkit.pipeline.manifest import ReadUnit

BLOCK_BYTES = 32 * 2**20
"""Largest block of decoded images on its way to an actor: some 200 at 224 × 224."""


def caption_stream(
    units: list[ReadUnit], fetch: FetchOptions, pool: Pool, actor: type, arguments: tuple[Any, ...], batch_size: int
) -> ray.data.Dataset:
    """Rows of pixels through a pool of actors, lazily.

    Args:
        actor: A class built once per actor from `arguments`, then called with tables of at most `batch_size` rows, as
            `captionkit.pipeline.fetch.PIXELS` describes them; what it returns streams on.
    """
    context = DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    return ray.data.read_datasource(
        ManifestDatasource(units, fetch),
        num_cpus=pool.fetch_cpus,
        # Two blocks: the one being made and the one read ahead. Ray Data would fuse fetch and captioner, whose
        # demands are alike on CPUs, into one actor that does both by turns; this one they do not share.
        memory=2 * BLOCK_BYTES,
        override_num_blocks=len(units),
    ).map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        batch_size=batch_size,
        zero_copy_batch=True,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        compute=ActorPoolStrategy(min_size=pool.low, max_size=pool.high, initial_size=pool.low),
    )

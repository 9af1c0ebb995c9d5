"""The stream through Ray Data: fetch tasks on CPUs feed a pool of actors that hold a network."""

from __future__ import annotations

import warnings
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from captionkit.pipeline.cluster import Pool
from captionkit.pipeline.fetch import BLOCK_BYTES, FetchOptions, ManifestDatasource
from captionkit.pipeline.machines import Machines
from captionkit.pipeline.manifest import ReadUnit
from captionkit.pipeline.options import WAIT_HOURS


def caption_stream(
    units: list[ReadUnit],
    fetch: FetchOptions,
    pool: Pool,
    actor: type,
    arguments: tuple[Any, ...],
    batch_size: int,
    *,
    wait_hours: float = WAIT_HOURS,
    machines: Machines | None = None,
) -> ray.data.Dataset:
    """Rows of pixels through a pool of actors, lazily.

    Args:
        actor: A class built once per actor from `arguments`, then called with tables of at most `batch_size` rows, as
            `captionkit.pipeline.fetch.PIXELS` describes them; what it returns streams on.
        wait_hours: Time without progress after which Ray Data raises.
        machines: Says where actors may be started, and how many may fail to; without it the first failure is raised.
    """
    context = DataContext.get_current()
    context.target_max_block_size = fetch.block_bytes
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = wait_hours * 3600
    context.max_consecutive_actor_init_deaths = machines.deaths if machines else 0
    with warnings.catch_warnings():
        # Ray Data has no other way yet to say where the next actor may be started: `ray_remote_args_fn`.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return _stream(units, fetch, pool, actor, arguments, batch_size, machines)


def _stream(
    units: list[ReadUnit],
    fetch: FetchOptions,
    pool: Pool,
    actor: type,
    arguments: tuple[Any, ...],
    batch_size: int,
    machines: Machines | None,
) -> ray.data.Dataset:
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
        ray_remote_args_fn=machines.place if machines else None,
        compute=ActorPoolStrategy(min_size=pool.low, max_size=pool.high, initial_size=pool.low),
    )

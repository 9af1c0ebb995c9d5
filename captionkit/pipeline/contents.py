"""Who was first with what contents, among images of which nobody knows before they are read (`--dedupe`)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from captionkit.inputs.ids import IdMap, Ids


class Contents:
    """Knows the first image with each contents. As a Ray actor, which all fetch tasks of a run ask; 16 bytes an image.

    A task that runs again gets the answer that it got: an image that was the first stays so.
    """

    def __init__(self) -> None:
        self._first = IdMap()

    def first(self, hashes: Ids, ids: Ids) -> Ids:
        """For images (n,) the ids of the first ones with their contents, their own perhaps: (n,)."""
        return self._first.setdefault(hashes, ids)


def start_contents() -> ray.actor.ActorHandle:
    """The actor, on this machine: what is lost with that, is the run. It reserves no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Contents).options(num_cpus=0, scheduling_strategy=here).remote()


def first_with_contents(actor: ray.actor.ActorHandle, images: Sequence[bytes], ids: Sequence[int]) -> list[int]:
    """For encoded images, the ids of the first ones of the same bytes."""
    hashes = [int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True) for data in images]
    first: list[int] = ray.get(actor.first.remote(np.array(hashes, np.int64), np.array(ids, np.int64))).tolist()
    return first

"""What `captionkit plan` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from captionkit.inputs.options import InputOptions
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.options import ModelOptions, WordOptions
from captionkit.storage import StorageOptions


@dataclass(frozen=True)
class BudgetOptions:
    """What to plan for."""

    nodes: tuple[int, ...] = (1, 4, 16)
    """Numbers of machines to compare."""
    node_types: tuple[str, ...] = ()
    """Kinds of machine, by the names of the price file. By itself those that the captioner's rate is known for."""
    prices: str | None = None
    """Address of a price file in YAML; by itself the one that comes with the package."""
    sample: int = 192
    """Images to fetch, decode and caption."""
    gpu_rate: float | None = None
    """Images a second that one GPU captions, where plan runs on a machine without that GPU."""
    hours: float = 8.0
    """When it should be done. Settings are those of the cheapest machines that make it."""
    json: bool = False
    """JSON, for programs."""


@dataclass(frozen=True)
class PlanOptions:
    """How long an archive will take and what it will cost, before anything is spent."""

    inputs: tyro.conf.OmitArgPrefixes[InputOptions]
    captioner: tyro.conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    words: tyro.conf.OmitArgPrefixes[WordOptions] = field(default_factory=WordOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
    budget: tyro.conf.OmitArgPrefixes[BudgetOptions] = field(default_factory=BudgetOptions)

"""What a plan can be told, and what of that can be refused before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

import tyro

from captionkit.errors import UsageError
from captionkit.inputs.options import InputOptions
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.options import ModelOptions, WordOptions
from captionkit.storage.options import StorageOptions
from captionkit.storage.prices import READ_PER_MILLION, WRITE_PER_MILLION

if TYPE_CHECKING:
    from captionkit.storage import Storage


@dataclass(frozen=True)
class BudgetOptions:
    """What to plan for."""

    nodes: tuple[int, ...] = (1, 4, 16)
    """Numbers of machines to compare."""
    node_types: tuple[str, ...] = ()
    """Kinds of machine, by the names of the price file. Default: those that the captioner's rate is known for."""
    prices: str | None = None
    """Address of a price file in YAML; default: the one that comes with the package."""
    sample: int = 192
    """Images to fetch, decode and caption."""
    gpu_rate: float | None = None
    """Images a second that one GPU captions, where plan runs on a machine without that GPU."""
    hours: float = 8.0
    """When it should be done. Settings are those of the cheapest machines that make it."""
    machines_region: str | None = None
    """Region of the machines, to be held against the buckets'. Default: AWS_REGION, else AWS_DEFAULT_REGION."""
    egress_rate: float = 0.02
    """Dollars for a gigabyte that leaves a bucket's region for the machines'."""
    get_rate: float = READ_PER_MILLION
    """Dollars for a million requests that read or ask about an object."""
    list_rate: float = WRITE_PER_MILLION
    """Dollars for a million requests that list a thousand objects each."""
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


@dataclass(frozen=True)
class NodeType:
    """A kind of machine, as the price file has it."""

    cpus: int
    gpus: int
    dollars: float
    spot: float | None = None
    memory_gb: float | None = None
    gpu: str | None = None
    gpu_speed: float | None = None


def check_plan(options: PlanOptions, storage: Storage) -> None:
    """Look for inputs, captioner and prices.

    Raises:
        UsageError: one of them cannot be used.
        StorageError: storage that cannot be read.
    """
    from captionkit.inputs.listing import Inputs
    from captionkit.model.bundle_files import check_bundles

    node_types(options.budget, storage)
    check_bundles(options.captioner.model, storage)
    Inputs(options.inputs, storage).check()


def node_types(budget: BudgetOptions, storage: Storage) -> dict[str, NodeType]:
    """Kinds of machines by name, those asked for among them.

    Raises:
        UsageError: no price file, or it does not have a kind that is asked for.
    """
    types = _read_prices(budget.prices, storage)
    unknown = [name for name in budget.node_types if name not in types]
    if unknown:
        raise UsageError(f"--node-types {' '.join(unknown)}: the price file has {', '.join(types)}")
    return types


def _read_prices(uri: str | None, storage: Storage) -> dict[str, NodeType]:
    """Kinds of machines by name.

    Raises:
        UsageError: no such file, or not of the form that the package's own has.
    """
    # Late: `captionkit plan --help` needs none of it.
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from captionkit.storage import StorageError

    try:
        if uri is None:
            text = (package_files("captionkit") / "assets" / "prices.yaml").read_bytes()
        else:
            text = storage.read(storage.normalize(uri))
        return TypeAdapter(dict[str, NodeType]).validate_python(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, StorageError) as err:
        raise UsageError(f"--prices {uri}: {err}") from err

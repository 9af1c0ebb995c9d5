"""Hours and dollars from what a sample took: arithmetic over kinds of machines."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from captionkit.errors import UsageError
from captionkit.plan.options import BudgetOptions, NodeType
from captionkit.plan.sample import Archive, Sample

STARTING_SECONDS = 240.0
"""What a cloud machine takes to come up, measured from its request; in every estimate."""
CORES_KEPT = 1
"""Cores of a node that neither decode nor caption: Ray's own."""


@dataclass(frozen=True)
class Estimate:
    """One row of the plan."""

    node_type: str
    nodes: int
    images_per_second: float
    hours: float
    dollars: float
    spot_dollars: float | None
    bound: str
    """What the machines are short of: "decode", "captions", or "cores" for both."""
    feeder_type: str = ""
    """Kind of machine without a GPU that fetches and decodes beside them, where that pays."""
    feeders: int = 0

    @property
    def machines(self) -> str:
        return f"{self.nodes} × {self.node_type}" + (f" + {self.feeders} × {self.feeder_type}" if self.feeders else "")


def estimate(budget: BudgetOptions, archive: Archive, sample: Sample, types: dict[str, NodeType]) -> list[Estimate]:
    """Hours and dollars for each kind and number of machines whose rate is known.

    Raises:
        UsageError: a kind of machine whose GPUs nobody has measured.
    """
    if not sample.captioned:
        return []
    rows = []
    feeder = _feeder({name: types[name] for name in budget.node_types or types})
    for name in budget.node_types or types:
        rates = _rates(types[name], sample, budget.gpu_rate)
        if rates is None:
            if budget.node_types:
                raise UsageError(
                    f"--node-types {name}: how fast its GPU captions is not known. Run plan on such a machine, or give "
                    "--gpu-rate (images a second; captionkit's run records tell)"
                )
            continue
        bound, rate = min(rates.items(), key=lambda pair: pair[1])
        for nodes in budget.nodes:
            rows.append(_row(archive.images, name, nodes, rate * nodes, bound, types))
            if bound == "decode" and feeder:
                missing = nodes * (rates["captions"] - rates["decode"]) / sample.decode_rate
                count = ceil(missing / _cores(types[feeder]))
                fed = _row(archive.images, name, nodes, rates["captions"] * nodes, "captions", types, feeder, count)
                if fed.dollars < rows[-1].dollars:
                    rows.append(fed)
    return rows


def _row(
    images: int,
    name: str,
    nodes: int,
    rate: float,
    bound: str,
    types: dict[str, NodeType],
    feeder: str = "",
    feeders: int = 0,
) -> Estimate:
    hours = (images / rate + STARTING_SECONDS) / 3600
    machines = [(types[name], nodes), *([(types[feeder], feeders)] if feeders else [])]
    dollars = sum(hours * count * kind.dollars for kind, count in machines)
    # A kind that is not to be had on spot is paid for in full.
    spot = sum(hours * count * (kind.dollars if kind.spot is None else kind.spot) for kind, count in machines)
    on_spot = None if all(kind.spot is None for kind, _ in machines) else spot
    return Estimate(name, nodes, rate, hours, dollars, on_spot, bound, feeder, feeders)


def _feeder(types: dict[str, NodeType]) -> str:
    """The kind of machine without a GPU whose cores are cheapest; "" where there is none."""
    cores = {name: kind.dollars / _cores(kind) for name, kind in types.items() if not kind.gpus}
    return min(cores, key=lambda name: cores[name]) if cores else ""


def _cores(node: NodeType) -> float:
    return max(0.5, node.cpus - CORES_KEPT)


def _rates(node: NodeType, sample: Sample, gpu_rate: float | None) -> dict[str, float] | None:
    """Images a second of one machine, by what could hold it up; None where its GPUs' rate is not known."""
    cores = _cores(node)
    if not node.gpus:
        if sample.device == "cuda":
            return None
        return {"cores": cores / (1 / sample.decode_rate + 1 / sample.caption_rate)}
    rate = gpu_rate
    if rate is None and sample.device == "cuda":
        speed = 1.0 if node.gpu and node.gpu in sample.gpu.split() else node.gpu_speed
        rate = None if speed is None else sample.caption_rate * speed
    if rate is None:
        return None
    return {"decode": cores * sample.decode_rate, "captions": node.gpus * rate}

"""What follows from a plan: workers for cluster.yaml, and what to say to the job."""

from __future__ import annotations

from dataclasses import dataclass

from captionkit.plan.estimate import Estimate
from captionkit.plan.options import NodeType, PlanOptions
from captionkit.plan.sample import Sample


@dataclass(frozen=True)
class Settings:
    """For one row of the plan."""

    instance_types: dict[str, str]
    """Kinds of machine by the names that cluster.yaml has for its workers."""
    max_workers: dict[str, int]
    """How many of each; 0 of those that are not wanted."""
    actors: str
    gpus_per_actor: float
    batch_size: int

    @property
    def arguments(self) -> str:
        """For the job's command line."""
        return f"--actors {self.actors} --gpus-per-actor {self.gpus_per_actor:g} --batch-size {self.batch_size}"

    def lines(self) -> list[str]:
        """For people."""
        workers = []
        for name, count in self.max_workers.items():
            machine = f"InstanceType {self.instance_types[name]}, " if name in self.instance_types else ""
            workers.append(f"  {name}: {machine}max_workers {count}")
        total = sum(self.max_workers.values())
        return ["In cluster.yaml:", f"  max_workers: {total}, of all kinds", *workers, f"The job: {self.arguments}"]


def choose(options: PlanOptions, sample: Sample, estimates: list[Estimate], types: dict[str, NodeType]) -> Settings:
    """The settings of the row that `preferred` names.

    Of a pool's actors half are wanted from the beginning: Ray Data doubles what it has whenever it is short of it, and
    machines take minutes to come. On CPUs actors and fetch tasks share the cores as their seconds are shared.
    """
    row = preferred(options.budget.hours, estimates)
    node = types[row.node_type]
    if node.gpus:
        machines = {"gpu_spot": row.node_type, **({"cpu_spot": row.feeder_type} if row.feeders else {})}
        workers = {"gpu_spot": row.nodes, "cpu_spot": row.feeders}
        actors, gpus = row.nodes * node.gpus, 1.0
    else:
        machines = {"cpu_spot": row.node_type}
        workers = {"gpu_spot": 0, "cpu_spot": row.nodes}
        captioning = sample.decode_rate / (sample.decode_rate + sample.caption_rate)
        actors, gpus = max(1, round(captioning * row.nodes * node.cpus)), 0.0
    size = options.captioner.images_at_once(gpus > 0)
    return Settings(machines, workers, f"{max(1, actors // 2)}:{actors}", gpus, size)


def preferred(hours: float, estimates: list[Estimate]) -> Estimate:
    """The cheapest row of those that are done in so many hours; where none is, the fastest."""
    soon = [row for row in estimates if row.hours <= hours]
    return min(soon, key=lambda row: row.dollars) if soon else min(estimates, key=lambda row: row.hours)

"""What an archive costs besides machines: requests, and bytes that leave their region."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from captionkit.plan.options import BudgetOptions
from captionkit.plan.sample import Archive, Sample
from captionkit.storage import Storage

PAGE = 1000
"""Objects of one answer to a request that lists."""


@dataclass(frozen=True)
class Traffic:
    """Requests and bytes of a run over a whole archive in object storage."""

    gigabytes: float
    gets: int
    """One for each image of its own, and for each shard at least one."""
    lists: int
    request_dollars: float
    machines: str | None
    """Region of the machines, where it is known."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Buckets in other regions, with these."""
    egress_gigabytes: float = 0.0
    egress_dollars: float = 0.0

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"Object storage: {self.gigabytes:,.1f} GB in {self.gets:,} reads, listed in {self.lists:,} requests: "
            f"about {self.request_dollars:,.2f} dollars for requests."
        ]
        if self.elsewhere:
            where = ", ".join(f"{bucket} in {region}" for bucket, region in sorted(self.elsewhere.items()))
            lines.append(
                f"WARNING: {where}, and the machines in {self.machines}: {self.egress_gigabytes:,.1f} GB leave their "
                f"region, about {self.egress_dollars:,.2f} dollars. Run the job where the images are: captions are "
                "small."
            )
        return lines


def traffic(budget: BudgetOptions, archive: Archive, sample: Sample, storage: Storage) -> Traffic | None:
    """What is read of buckets, and from where; None where no input lies in one."""
    objects = sum(archive.buckets.values())
    if not objects:
        return None
    each = archive.listed_bytes / archive.sized if archive.sized else sample.bytes / max(1, sample.images)
    total = (each * (objects - archive.shards) + archive.shard_bytes) / 1e9
    lists = math.ceil(objects / PAGE)
    machines = budget.machines_region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    elsewhere = {}
    for bucket in archive.buckets if machines else ():
        region = storage.region(f"s3://{bucket}/")
        if region and region != machines:
            elsewhere[bucket] = region
    leaving = total * sum(archive.buckets[bucket] for bucket in elsewhere) / objects
    return Traffic(
        gigabytes=total,
        gets=objects,
        lists=lists,
        request_dollars=(objects * budget.get_rate + lists * budget.list_rate) / 1e6,
        machines=machines,
        elsewhere=elsewhere,
        egress_gigabytes=leaving,
        egress_dollars=leaving * budget.egress_rate,
    )

"""A plan before the money: what is there to caption, what one image takes, what that comes to on a cluster.

It lists the inputs, fetches and decodes a sample of them, captions a few batches, and does the arithmetic. Nothing is
written and no Ray is started.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from captionkit.model.captioner import Captioner
from captionkit.plan.estimate import Estimate, estimate
from captionkit.plan.options import PlanOptions, node_types
from captionkit.plan.sample import Archive, Sample, list_archive, measure
from captionkit.plan.settings import Settings, choose, preferred
from captionkit.plan.traffic import Traffic, traffic
from captionkit.storage import Storage


@dataclass(frozen=True)
class Plan:
    """The answer. `str()` is for people, `to_json` for programs."""

    archive: Archive
    sample: Sample
    estimates: list[Estimate]
    settings: Settings | None
    """None where there is no estimate to choose from."""
    advice: list[str]
    dedupe: bool = False
    """Whether images of the same contents as others were left out."""
    traffic: Traffic | None = None
    """None where no input lies in a bucket."""

    def to_json(self) -> dict[str, Any]:
        return {
            "archive": {
                **vars(self.archive),
                "kinds": dict(self.archive.kinds),
                "buckets": dict(self.archive.buckets),
            },
            "traffic": None if self.traffic is None else asdict(self.traffic),
            "sample": {**vars(self.sample), "failed": dict(self.sample.failed)},
            "decode_per_core_second": round(self.sample.decode_rate, 2),
            "captions_per_second": round(self.sample.caption_rate, 2),
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "settings": None if self.settings is None else asdict(self.settings),
            "advice": self.advice,
        }

    def __str__(self) -> str:
        archive, sample = self.archive, self.sample
        kinds = ", ".join(f"{count:,} × {kind or 'no suffix'}" for kind, count in archive.kinds.most_common(6))
        lines = [f"{archive.images:,} images ({kinds})"]
        if archive.shards:
            lines[0] += f", those in {archive.shards:,} shards estimated from their size"
        if archive.copies:
            lines[0] += f"; {archive.copies:,} of the same contents as others"
            lines[0] += "" if self.dedupe else ", which --dedupe would not caption again"
        if self.dedupe and archive.untold:
            lines[0] += f"; whether more are, of {archive.untold:,} only reading them will tell"
        if archive.paged:
            lines[0] += f", the pages of {archive.paged:,} files estimated from the sample's"
        if archive.existing:
            lines[0] += f"; {archive.existing:,} more bring their captions and are not captioned (--existing skip)"
        if sample.images:
            sides = sorted(int(pixels**0.5) for pixels in sample.pixels)
            lines.append(
                f"sample of {sample.images:,}: {sample.bytes / sample.images / 1e3:,.0f} kB each, "
                f"{_typical(sides)}, {sample.failed.total():,} failed"
                + "".join(f", {count} × {kind}" for kind, count in sample.failed.most_common(5))
            )
            unit = "GPU" if sample.device == "cuda" else "core"
            lines.append(
                f"one core fetches and decodes {sample.decode_rate:,.0f} images/s; one {unit} captions "
                f"{sample.caption_rate:,.1f} images/s; "
                f"one read takes {1e3 * sample.wait_seconds / sample.images:,.0f} ms"
            )
        width = max([22, *(len(row.machines) + 2 for row in self.estimates)])
        if self.estimates:
            lines += ["", f"{'machines':<{width}}{'images/s':>10}{'hours':>9}{'dollars':>10}{'on spot':>10}  short of"]
        for row in self.estimates:
            spot = "" if row.spot_dollars is None else f"{row.spot_dollars:,.2f}"
            lines.append(
                f"{row.machines:<{width}}{row.images_per_second:>10,.0f}{row.hours:>9,.2f}"
                f"{row.dollars:>10,.2f}{spot:>10}  {row.bound}"
            )
        for part in (
            self.traffic.lines() if self.traffic else [],
            self.advice,
            [] if self.settings is None else self.settings.lines(),
        ):
            lines += ["", *part] if part else []
        return "\n".join(lines)


def make_plan(options: PlanOptions, progress: Callable[[int], None] = lambda _: None) -> Plan:
    """List, sample, measure, reckon.

    Raises:
        UsageError: inputs, captioner or prices that cannot be used.
        StorageError: storage that cannot be read at all.
    """
    storage = Storage(options.storage)
    types = node_types(options.budget, storage)
    captioner = Captioner.load(options.captioner.model, dtype=options.captioner.dtype, storage=storage)
    captioner.encoder.check()
    archive, chosen = list_archive(options, storage, progress)
    sample = measure(options, storage, captioner, archive, chosen)
    estimates = estimate(options.budget, archive, sample, types)
    settings = choose(options, sample, estimates, types) if estimates else None
    advice = advise(options, sample, estimates)
    expected_traffic = traffic(options.budget, archive, sample, storage)
    return Plan(archive, sample, estimates, settings, advice, options.inputs.dedupe, expected_traffic)


def advise(options: PlanOptions, sample: Sample, estimates: list[Estimate]) -> list[str]:
    """What the figures mean, in words."""
    if not sample.captioned:
        return ["No image of the sample could be captioned; look at the failures above first."]
    rate = options.budget.gpu_rate or (sample.caption_rate if sample.device == "cuda" else None)
    advice = []
    if rate is not None:
        cores = rate / sample.decode_rate
        advice.append(f"One GPU wants {cores:,.1f} cores that fetch and decode.")
    else:
        advice.append(
            "No GPU was measured: run plan on a machine that has one, or give --gpu-rate, to compare GPU machines."
        )
    share = sample.failed.total() / max(1, sample.images)
    if share > 0.01:
        advice.append(f"{share:.1%} of the sample failed; the job ends with exit code 3 above --max-failed.")
    if estimates:
        wanted = options.budget.hours
        best = preferred(wanted, estimates)
        which = (
            f"Cheapest within {wanted:g} h"
            if best.hours <= wanted
            else f"Nothing here is done in {wanted:g} h; fastest"
        )
        advice.append(f"{which} (--hours): {best.machines}, {best.hours:,.2f} h, {best.dollars:,.2f} dollars.")
    return advice


def _typical(sides: list[int]) -> str:
    if not sides:
        return "none could be read"
    middle, largest = sides[len(sides) // 2], sides[-1]
    return f"about {middle:,} × {middle:,} pixels (the largest {largest:,} × {largest:,})"

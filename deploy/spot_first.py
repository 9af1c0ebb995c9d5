"""Spot first, and on demand where there is no spot: a scorer for Ray's autoscaler, which has none that does this.

Ray's autoscaler notes which node types fail to launch, and asks for the same again all the same: neither its older
version's own scorer nor its newer version looks at the note (Ray 2.60; tests/deploy/test_launcher.py shows it). The
older version lets one name a better scorer, as the head's start command in cluster.yaml does:

    RAY_enable_autoscaler_v2=0 RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score PYTHONPATH=~/deploy ray start --head …
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer


def score(
    node_resources: dict[str, float],
    resources: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """How well a node type suits a demand; the type with the greatest score is launched.

    First as Ray has it, no GPU machine for work that needs none; then a type that did not fail to launch in the last
    half an hour (AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S); then types with `spot` in their name; then the rest of
    Ray's own score. None where the demand does not fit.
    """
    own = _resource_based_utilization_scorer(
        node_resources, resources, node_availability_summary=node_availability_summary
    )
    if own is None:
        return None
    seen = node_availability_summary.node_availabilities.get(node_type)
    return own[0], seen is None or seen.is_available, "spot" in node_type, *own[1:]

"""What Ray's workers write on their standard error, and Ray shows here: less what nobody can act on."""

from __future__ import annotations

import re
from typing import Any

_NOISE = re.compile(
    # Ray Data and Ray Train keep what they have put into the object store for as long as their actors may live.
    r"has constructor arguments in the object store and max_restarts > 0"
    r"|^Requesting resources: |^Attempting to start training worker group |^Started training worker group "
    r"|^- \(ip=.*world_rank=|^Setting up process group for: |^Progress bars disabled\. "
    r"|Dataset \S+ execution finished in |RayDeprecationWarning: `ExecutionOptions\."
    r"|^  self\.exclude_resources = exclude_resources$"
    # A training says itself that it goes on from a checkpoint.
    r"|^A run snapshot was found in storage folder|^This snapshot contains a list of checkpoints"
    r"|^If you meant to start a brand new training job"
)
_NOISY_ACTORS = ("PlacementGroupCleaner",)
"""It outlives the training's controller by design, and complains at length when the cluster is shut down meanwhile."""

NOT_BUILT = "captioner cannot be built on"
"""Words of the error with which a captioner actor fails to start."""

_known: list[object] = []


def quieten() -> None:
    """Leave such lines out from now on. To be called before Ray is connected to, whose own handler comes after."""
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
    except ImportError:  # another Ray keeps it elsewhere: then they are shown
        return
    if not _known:
        dispatcher.add_handler("captionkit", without_noise)
        _known.append(dispatcher)


def without_noise(batch: dict[str, Any]) -> None:
    """Take noise out of a batch of lines as Ray hands it on."""
    if any(NOT_BUILT in line for line in batch["lines"]):  # a page of stack; the driver names machine and reason
        batch["lines"] = []
    noisy = batch.get("actor_name") in _NOISY_ACTORS or batch.get("task_name") in _NOISY_ACTORS
    batch["lines"] = [] if noisy else [line for line in batch["lines"] if not _NOISE.search(_plain(line))]


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)

"""One row per input, whatever Ray Data hands out after it has lost machines.

Lost blocks are made again by the tasks that made them, and taken by their numbers. Fetch tasks make the same blocks
each time (`captionkit.pipeline.fetch.fetch_unit`), but for a shard that could be read once and not the other time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionkit.counting import counted
from captionkit.errors import OutsideError
from captionkit.inputs.ids import IdSet, image_id
from captionkit.pipeline.manifest import Manifest
from captionkit.table.table import CaptionTable


class RowsMissing(OutsideError):
    """Not every input has its row although the run came to its end."""


class Guard:
    """Looks at the rows of a run on their way to the table. 8 bytes of memory a row.

    Args:
        table: Where the rows are written to, as it was before.
        manifest: What is to be done.
        seen: Ids of the rows that the parts of the listing before this one have brought; those of this part are added.
    """

    def __init__(self, table: CaptionTable, manifest: Manifest, seen: IdSet | None = None) -> None:
        self._table, self._manifest = table, manifest
        self._before = {file.uri for file in table.files}
        self._seen = IdSet() if seen is None else seen
        self.again = 0
        """Rows that came a second time, and were left out."""
        self.ends: list[dict[str, Any]] = []
        """Of these, those that told how many images their container has: `uri`, `version` and `container_rows`."""

    def fresh(self, rows: pa.Table) -> pa.Table:
        """Those rows whose images have none yet in this run."""
        new = self._seen.add(rows["image_id"].to_numpy())
        if new.all():
            return rows
        self.again += int((~new).sum())
        left_out = rows.select(["uri", "version", "container_rows"]).filter(pa.array(~new))
        self.ends += left_out.filter(pc.is_valid(left_out["container_rows"])).to_pylist()
        return rows.filter(pa.array(new))

    def demand_all(self, rows: int, lost: int = 0) -> None:
        """Make sure, once all is written, that each input has its row.

        Args:
            rows: How many this run has written, without those of members that took another row's place.
            lost: Members whose new captions have not come.

        Raises:
            RowsMissing: some have none. What the table says of a shard that broke on the way is taken out.
        """
        files = [file for file in self._table.files if file.uri not in self._before]
        to_do = self._manifest.containers_to_do
        parts = [(uri, part.rows) for file in files for uri, part in file.footer.containers.items() if uri in to_do]
        single = self._manifest.single - self._manifest.overlap
        missing = single - (rows - sum(count for _, count in parts))
        read = {uri: to_do[uri] for uri, _ in parts}
        finished = self._table.finished_containers() if read else set()
        unfinished = {uri: version for uri, version in read.items() if (uri, version) not in finished}
        if missing <= 0 and not unfinished and not lost:
            return
        # A shard's own row says that it broke after so many images: not so, if it could be read the other time.
        own = np.sort(np.array([image_id(*each) for each in unfinished.items()], np.int64))
        self._table.drop((file, own) for file in files)
        raise RowsMissing(
            f"{counted(max(0, missing) + lost, 'image')} and "
            f"{counted(len(unfinished), 'shard or file', 'shards or files')} "
            "lack rows: machines were lost, and what was read again was not what was read first. The same command "
            "captions what is missing"
        )

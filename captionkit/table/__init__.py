"""The caption table: all that reads, writes, checks or mends it. No Ray, no torch.

    from captionkit.storage import Storage
    from captionkit.table import CaptionTable

    for row in CaptionTable("captions/", Storage()).rows(["uri", "caption"]): ...

The names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.table.check_report import CheckReport
    from captionkit.table.compact import CompactReport
    from captionkit.table.lease import Lease, LeaseError, LeaseLost
    from captionkit.table.runs import read_run_records
    from captionkit.table.status import Status, read_status
    from captionkit.table.table import CaptionTable, Container, Footer, TableFile
    from captionkit.table.writer import TableWriter
    from captionkit.table.writing import open_for_writing

__all__ = [
    "CaptionTable",
    "CheckReport",
    "CompactReport",
    "Container",
    "Footer",
    "Lease",
    "LeaseError",
    "LeaseLost",
    "Status",
    "TableFile",
    "TableWriter",
    "open_for_writing",
    "read_run_records",
    "read_status",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CaptionTable": "table",
        "CheckReport": "check_report",
        "CompactReport": "compact",
        "Container": "table",
        "Footer": "table",
        "Lease": "lease",
        "LeaseError": "lease",
        "LeaseLost": "lease",
        "Status": "status",
        "TableFile": "table",
        "TableWriter": "writer",
        "open_for_writing": "writing",
        "read_run_records": "runs",
        "read_status": "status",
    },
)

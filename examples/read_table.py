"""Read a caption table with pyarrow alone: what became of the images, and the captions the captioner was surest of.

python examples/read_table.py captions/
python examples/read_table.py s3://archive-captions/2014/
"""

from __future__ import annotations

import argparse

import pyarrow.compute as pc
import pyarrow.dataset as ds


def main() -> None:
    parser = argparse.ArgumentParser(description="Summarise a caption table.")
    parser.add_argument("table", help="the table's folder or address")
    parser.add_argument("--top", type=int, default=5, help="captions to print")
    options = parser.parse_args()
    rows = ds.dataset(options.table, format="parquet")  # files whose names begin with _ are passed over
    counts = rows.to_table(["status", "error_kind"]).group_by(["status", "error_kind"]).aggregate([([], "count_all")])
    for row in counts.to_pylist():
        print(f"{row['count_all']:>8}  {row['status']}  {row['error_kind'] or ''}")
    captioned = rows.to_table(["uri", "caption", "score"], filter=pc.field("status") == "captioned")
    for row in captioned.sort_by([("score", "descending")]).slice(0, options.top).to_pylist():
        print(f"{row['score']:.2f}  {row['caption']}  {row['uri']}")


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# A valid Parquet file whose only row group is empty: pyarrow's write_table makes one of an empty table.
# Seen with datasets 5.2.0 and pyarrow 26.0.1 on Python 3.11:
# - pyarrow.parquet.write_table(empty table) writes one row group of 0 rows; ParquetWriter closed at once writes none.
# - load_dataset("parquet", data_files=...) of the first fails ("BatchSize must be greater than 0, got 0": the batch
#   size it reads by is the length of the first row group), also where other files beside it have rows.
# - of the second it gives 0 rows, as DuckDB 2.0.1 and Polars 2.1.0 do of both.
# Fails once that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet datasets==5.2.0 pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" venv/bin/python - <<'P'
import datasets, duckdb, polars, pyarrow as pa, pyarrow.parquet as pq

schema = pa.schema([("uri", pa.string())])
pq.write_table(schema.empty_table(), "one_group.parquet")
pq.ParquetWriter("no_group.parquet", schema).close()
print("versions:", datasets.__version__, pa.__version__, duckdb.__version__, polars.__version__)
groups = {name: pq.read_metadata(f"{name}.parquet").num_row_groups for name in ("one_group", "no_group")}
print("row groups:", groups)
assert groups == {"one_group": 1, "no_group": 0}
for name in groups:
    assert duckdb.sql(f"SELECT count(*) FROM '{name}.parquet'").fetchall() == [(0,)]
    assert len(polars.read_parquet(f"{name}.parquet")) == 0


def rows(*files):
    try:
        return len(datasets.load_dataset("parquet", data_files=list(files), split="train", cache_dir="cache"))
    except datasets.exceptions.DatasetGenerationError as error:
        return f"{type(error.__cause__).__name__}: {error.__cause__}"


pq.write_table(pa.table({"uri": ["a"]}), "full.parquet")
found = {"no group": rows("no_group.parquet", "full.parquet"), "one group": rows("one_group.parquet", "full.parquet")}
print(found)
assert found["no group"] == 1
assert "BatchSize must be greater than 0" in str(found["one group"])
P
echo "as described"

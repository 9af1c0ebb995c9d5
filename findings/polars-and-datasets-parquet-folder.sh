#!/usr/bin/env bash
# A folder of Parquet files with anything else in it, such as a run record in a folder that begins with an underscore.
#
# pyarrow and pandas pass over names that begin with `_` or `.`, as Spark and Hive do. Two others do not:
# - polars 2.1.0, scan_parquet("folder/"): InvalidOperationError, "directory contained paths with different file
#   extensions", for `_runs/r.json`, for `.runs/r.json` and for `_SUCCESS` alike.
# - datasets 5.2.0, load_dataset("parquet", data_dir="folder"): tries to read `_runs/r.json` as Parquet and fails with
#   ArrowInvalid, although the builder is "parquet"; the same in `.runs/` is passed over.
# A pattern ("folder/*.parquet") works with both.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q polars==2.1.0 datasets==5.2.0 pandas pyarrow==26.0.1
cd "$home"
HF_HOME=$home/hf HF_HUB_OFFLINE=1 "$home/venv/bin/python" - <<'PYTHON'
import os
import shutil

import datasets
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet


def outcome(read):
    try:
        return read()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)


found = {}
for number, name in enumerate(("_runs/r.json", ".runs/r.json", "_SUCCESS")):
    shutil.rmtree("folder", ignore_errors=True)
    os.makedirs(os.path.dirname("folder/" + name), exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), "folder/part.parquet")
    open("folder/" + name, "w").write("{}")
    readers = {
        "pyarrow": lambda: pyarrow.dataset.dataset("folder").count_rows(),
        "pandas": lambda: len(pandas.read_parquet("folder")),
        "polars": lambda: polars.scan_parquet("folder/").select(polars.len()).collect().item(),
        "polars, pattern": lambda: polars.scan_parquet("folder/*.parquet").select(polars.len()).collect().item(),
        "datasets": lambda: len(
            datasets.load_dataset("parquet", data_dir="folder", split="train", cache_dir=f"cache{number}")
        ),
    }
    for reader, read in readers.items():
        found[name, reader] = outcome(read)
        print(f"{name:<14}{reader:<18}{str(found[name, reader])[:90]}")
for name in ("_runs/r.json", ".runs/r.json", "_SUCCESS"):
    assert found[name, "pyarrow"] == found[name, "pandas"] == found[name, "polars, pattern"] == 2, name
    assert "different file extensions" in str(found[name, "polars"]), name
assert str(found["_runs/r.json", "datasets"]).startswith("ArrowInvalid")
assert found[".runs/r.json", "datasets"] == 2
PYTHON

"""Registers a segment table with Delta Lake and Iceberg as LAKES.md says, and reads it back.

Runs in the environment of other projects' readers. Takes the table, LAKES.md and a folder for the
Iceberg catalogue; prints what each reader found, as JSON.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

QUERY = "SELECT label, count(*) AS count FROM {} GROUP BY label ORDER BY label"


def main(table: str, page: str, warehouse: str) -> None:
    """Runs the page's code, registers both parts twice, and counts the segments of each label."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", Path(page).read_text(), re.DOTALL | re.M):
        exec(block, names)
    parts = ("segments", "images")
    said: dict[str, Any] = {
        "delta_new": [names["register_delta"](table, part) for part in parts],
        "iceberg_new": [names["register_iceberg"](table, part, warehouse) for part in parts],
        "delta_again": [names["register_delta"](table, part) for part in parts],
        "iceberg_again": [names["register_iceberg"](table, part, warehouse) for part in parts],
    }
    place = f"{table}/segments"
    delta = names["DeltaTable"](place).to_pyarrow_dataset()
    catalog = names["iceberg_catalog"](warehouse)
    lake = catalog.load_table("maskformer.segments")
    by_label = pl.len().alias("count")
    said["counts"] = {
        "deltalake": counted(delta.to_table().group_by("label").aggregate([([], "count_all")])),
        "delta_duckdb": dict(duckdb.sql(QUERY.format("delta")).fetchall()),
        "delta_polars": counted(pl.scan_delta(place).group_by("label").agg(by_label).collect()),
        "pyiceberg": counted(
            lake.scan().to_arrow().group_by("label").aggregate([([], "count_all")])
        ),
        "iceberg_duckdb": dict(
            lake.scan().to_duckdb("segments").sql(QUERY.format("segments")).fetchall()
        ),
        "iceberg_polars": counted(pl.scan_iceberg(lake).group_by("label").agg(by_label).collect()),
    }
    said["images"] = {
        "deltalake": names["DeltaTable"](f"{table}/images").to_pyarrow_dataset().count_rows(),
        "pyiceberg": catalog.load_table("maskformer.images").scan().to_arrow().num_rows,
    }
    print(json.dumps(said))


def counted(rows: Any) -> dict[str, int]:
    """Returns two columns as a dict."""
    columns = rows.to_dict(as_series=False) if isinstance(rows, pl.DataFrame) else rows.to_pydict()
    label = columns.pop("label")
    [counts] = columns.values()
    return dict(sorted(zip(label, counts, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A table registered with Delta Lake and Iceberg, as LAKES.md says, and its own readers beside."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from drawn_tables import assert_is_sound, commit, draw_table, plan, plan_unit, report, unit_rows

import pipeline
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.table.store import TableStore, images, segments

ROOT = Path(pipeline.__file__).parents[1]
PYTHON = ROOT / ".venv" / "readers" / "bin" / "python"
PAGE = ROOT / "pipeline" / "table" / "LAKES.md"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason=f"the readers of other projects are not installed in {PYTHON}"
)


def registered(table: TableStore, warehouse: Path) -> dict[str, Any]:
    script = ROOT / "tests" / "readers" / "lake_tables.py"
    done = subprocess.run(
        [str(PYTHON), str(script), table.uri, str(PAGE), str(warehouse)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_all_rows_are_there(said: dict[str, Any], table: TableStore) -> None:
    expected = Counter(segments(table.uri).to_table()["label"].to_pylist())
    assert said["counts"] == {key: dict(sorted(expected.items())) for key in said["counts"]}
    num_images = images(table.uri).count_rows()
    assert said["images"] == {"deltalake": num_images, "pyiceberg": num_images}


def test_both_formats_read_all_rows_and_after_a_run_only_what_is_new(tmp_path):
    table = draw_table(str(tmp_path / "t"))
    warehouse = tmp_path / "warehouse"
    # A crash left the first file of a unit that is not done.
    orphan = table.storage.read(table.file("segments", "a.parquet"))
    table.storage.write(table.file("segments", "orphan.parquet"), orphan)
    said = registered(table, warehouse)
    assert (said["delta_new"], said["iceberg_new"]) == ([3, 3], [3, 3])
    assert (said["delta_again"], said["iceberg_again"]) == ([0, 0], [0, 0])
    assert_all_rows_are_there(said, table)
    table.storage.delete([table.file("segments", "orphan.parquet")])

    before = segments(table.uri).count_rows()
    rows = unit_rows("d")
    plan(table, [plan_unit("d", rows)], run_id="night-2", number=1)
    commit(table, "d", rows)
    report(table, rows, run_id="night-2", units=1)
    assert segments(table.uri).count_rows() > before
    assert_is_sound(table)
    logs = {p for p in Path(table.uri).rglob("_delta_log/*") if p.is_file()}
    compact(table, CompactSettings(table=table.uri))
    assert_is_sound(table)
    assert logs
    assert all(path.exists() for path in logs)

    said = registered(table, warehouse)
    assert (said["delta_new"], said["iceberg_new"]) == ([1, 1], [1, 1])
    assert_all_rows_are_there(said, table)

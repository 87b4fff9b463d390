"""Rows of a table in one order, to compare tables with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from job_runs import Ended

from pipeline.storage import Storage
from pipeline.table.store import images, segments

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows that a reader sees, by image_id, then segment_id."""

    images: list[Row]
    segments: list[Row]

    @property
    def ids(self) -> list[str]:
        return [row["image_id"] for row in self.images]

    def of(self, image_ids: Iterable[str]) -> "Rows":
        """The rows of some images."""
        wanted = set(image_ids)
        return Rows(
            images=[row for row in self.images if row["image_id"] in wanted],
            segments=[row for row in self.segments if row["image_id"] in wanted],
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on a disk, and the rows that it left."""

    corpus: Path
    table: Path
    rows: Rows
    ended: Ended


def rows_of(table: object, *, storage: Storage | None = None) -> Rows:
    def read(dataset: Any, *order: str) -> list[Row]:
        rows = dataset(str(table), storage=storage).to_table().to_pylist()
        return sorted(rows, key=lambda row: [row[name] for name in order])

    return Rows(images=read(images, "image_id"), segments=read(segments, "image_id", "segment_id"))


def assert_same(rows: Rows, expected: Rows, *, apart_from: Iterable[str] = ()) -> None:
    """Equal, floats up to the last bits of the arithmetic: machines differ in their threads."""
    left_out = set(apart_from)
    for got, wanted in ((rows.images, expected.images), (rows.segments, expected.segments)):
        assert [_exact(row, left_out) for row in got] == [_exact(row, left_out) for row in wanted]
        assert [_floats(row) for row in got] == [
            pytest.approx(_floats(row), abs=1e-5) for row in wanted
        ]


def _exact(row: Row, left_out: set[str]) -> Row:
    return {k: v for k, v in row.items() if k not in left_out and not isinstance(v, float)}


def _floats(row: Row) -> Row:
    return {k: v for k, v in row.items() if isinstance(v, float)}

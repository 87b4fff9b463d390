"""Selects the segments of an export, and numbers its labels."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.exchange.records import ExportLabel
from pipeline.exchange.settings import ExportSettings
from pipeline.runtime.options import did_you_mean
from pipeline.runtime.wording import list_some
from pipeline.table.label_colours import label_colour
from pipeline.table.scratch import ScratchDatabase, scratch_database
from pipeline.table.store import SEGMENTS

_ROW, _BATCH = "row_of_this_batch", "batch_of_segments"
_ORIGIN = pa.field("origin", pa.string())


def export_labels(spec: Mapping[str, Any], settings: ExportSettings) -> dict[int, ExportLabel]:
    """Returns the labels of an export by their label_id in the table, in its order.

    Raises:
        ValueError: the table has no such label, or none is left.
    """
    names: Sequence[str] = spec["labels"]
    fused = frozenset(spec["label_ids_to_fuse"] or ())
    if unknown := [name for name in settings.labels if name not in names]:
        raise ValueError(
            f"labels must be labels of the table, got {unknown[0]!r}"
            f"{did_you_mean(unknown[0], names)}; the table has {list_some(names)}"
        )
    chosen: dict[int, ExportLabel] = {}
    for label_id, name in enumerate(names):
        is_thing = spec["task"] != "semantic" and label_id not in fused
        is_wanted = not settings.labels or name in settings.labels
        if is_wanted and (is_thing or settings.segments == "all"):
            chosen[label_id] = ExportLabel(
                index=len(chosen),
                name=name,
                is_thing=is_thing,
                colour=label_colour(name, label_id),
            )
    if not chosen:
        raise ValueError(
            "no label is left to export: --segments things takes countable labels alone, and "
            f"{'the table' if not settings.labels else 'labels'} has none"
        )
    return chosen


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Decides for each segment whether it is exported."""

    labels: Mapping[int, ExportLabel]
    """By label_id of the table."""
    min_score: float | None
    where: str | None
    database: ScratchDatabase

    def of(self, rows: pa.Table) -> pa.Table:
        """Returns the selected rows, in their order; a column `origin` may be absent."""
        rows = rows.filter(pc.is_in(rows["label_id"], pa.array([*self.labels], pa.int32())))
        if self.min_score is not None:
            bound = np.float32(self.min_score)  # scores are of this type, and 0.7 must be 0.7
            is_high = pc.greater_equal(rows["score"], pa.scalar(bound, pa.float32()))
            rows = rows.filter(pc.fill_null(is_high, True))
        return rows if self.where is None else self._meeting(rows)

    def _meeting(self, rows: pa.Table) -> pa.Table:
        if _ORIGIN.name not in rows.schema.names:
            rows = rows.append_column(_ORIGIN, pa.repeat(pa.scalar("model"), len(rows)))
        numbered = rows.append_column(_ROW, pa.array(np.arange(len(rows))))
        with self.database.view(_BATCH, numbered):
            query = f"SELECT {_ROW} FROM {_BATCH} WHERE (\n{self.where}\n)"
            found = [row for (row,) in self.database.rows(query)]
        return rows.take(pa.array(sorted(found), pa.int64()))


@contextlib.contextmanager
def open_selection(
    settings: ExportSettings, labels: Mapping[int, ExportLabel]
) -> Iterator[Selection]:
    """Makes the selection that the settings ask for.

    Raises:
        ValueError: `where` is no condition on the columns of segments.
    """
    with scratch_database() as database:
        selection = Selection(
            labels=labels,
            min_score=settings.min_score,
            where=settings.where,
            database=database,
        )
        if settings.where is not None:
            _check(selection)
        yield selection


def _check(selection: Selection) -> None:
    where = str(selection.where)
    columns = [*SEGMENTS.names, _ORIGIN.name]
    try:
        duckdb.SQLExpression(where)  # one expression, and nothing behind it
        selection.of(SEGMENTS.empty_table())
    except duckdb.Error as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"where must be a condition in DuckDB's SQL on {', '.join(columns)}, got {where!r}: "
            f"{reason}"
        ) from error

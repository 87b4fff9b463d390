"""Jobs whose segmenters fail as a test says, and find nothing else: for all processes of a run."""

import dataclasses

import pyarrow as pa

from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.workers import SegmenterFactory
from pipeline.labelling.rows import ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultyJob(LabellingJob):
    """A job with segmenters of a test's own."""

    faults: SegmenterFactory

    @property
    def segmenters(self) -> SegmenterFactory:
        return self.faults


def rows_without_segments(block: pa.Table) -> pa.Table:
    """Returns the rows of a block of pixels in whose images nothing was found."""
    rows = block.to_pylist()
    for row in rows:
        if row["kind"] == "image" and row["error_class"] is None:
            row |= {"status": "ok", "num_segments": 0, "coverage": 0.0, "segments": []}
        elif row["kind"] == "image":
            row |= {"status": "error", "num_segments": 0, "segments": []}
    return pa.Table.from_pylist([{n: r.get(n) for n in ROWS.names} for r in rows], ROWS)

"""Measures the agreement of two whole tables, some thousand images at a time, and shows progress.

`compare` writes what comes out, and `select` chooses from it.
"""

import tempfile
from collections.abc import Iterator
from functools import partial

from pipeline.comparison.agreement import Agreement, measure_agreement
from pipeline.comparison.common_labels import CommonLabels
from pipeline.comparison.pairs import pairs_of_files, spread_rows
from pipeline.runtime.progress import ImageCount, ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.threads import map_ahead
from pipeline.table.store import IMAGES, TableStore

_THREADS = 2


def measured_tables(
    first: TableStore, second: TableStore, *, labels: CommonLabels
) -> Iterator[Agreement]:
    """Yields the agreement of all images of both tables, ascending by image_id.

    Raises:
        ValueError: a row has a label that its table does not know, or is no mask.
    """
    may_overlap = any(table.existing_spec()["task"] == "instance" for table in (first, second))
    measure = partial(measure_agreement, labels=labels, may_overlap=may_overlap)
    # Of the images to compare there are as many as in the larger table, which the other may share.
    counts = [table.dataset("images", IMAGES).count_rows() for table in (first, second)]
    with tempfile.TemporaryDirectory(prefix="pairs-") as folder:
        reading, comparing = RunStats(), RunStats()
        with ProgressDisplay(reading, ImageCount(num_images=sum(counts)), doing="reading"):
            files = spread_rows(first, second, folder=folder, on_images=reading.add_images)
        with ProgressDisplay(comparing, ImageCount(num_images=max(counts)), doing="comparing"):
            pairs = pairs_of_files(files, labels=labels)
            for found in map_ahead(measure, pairs, num_threads=_THREADS):
                yield found
                comparing.add_images(len(found.rows))

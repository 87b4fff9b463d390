"""Reads two tables side by side, ordered by image_id, some thousand images at a time.

A database on disk sorts the latest rows of both tables, so that memory stays the same however many
they are. `agreement.py` measures what comes out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.comparison.common_labels import CommonLabels
from pipeline.table.latest import latest_images, latest_segments
from pipeline.table.scratch import scratch_database
from pipeline.table.store import TableStore

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# An image's own row has segment_id 0, and so comes before those of its segments.
_IN_ORDER = """
    SELECT * FROM (
        SELECT image_id, 0 AS side, 0 AS segment_id, height, width, status,
            NULL AS label_id, NULL AS rle FROM images_a
        UNION ALL SELECT image_id, 1, 0, height, width, status, NULL, NULL FROM images_b
        UNION ALL SELECT image_id, 0, segment_id, NULL, NULL, NULL, label_id, rle FROM segments_a
        UNION ALL SELECT image_id, 1, segment_id, NULL, NULL, NULL, label_id, rle FROM segments_b
    ) ORDER BY image_id, side, segment_id
"""
_IMAGE_COLUMNS = ("image_id", "height", "width", "status")
_SEGMENT_COLUMNS = ("image_id", "segment_id", "label_id", "rle")


@dataclass(frozen=True, kw_only=True)
class PairedImages:
    """Some images that one of two tables has or both have, ascending by image_id."""

    image_ids: pa.Array
    is_there: Flags
    """By side and image: whether that table has a row of the image."""
    is_ok: Flags
    """By side and image: whether it was segmented there."""
    heights: Ints
    """By side and image, in pixels; 0 where not known."""
    widths: Ints
    image: Ints
    """By segment: the place of its image; ascending, and in an image the first table's first."""
    is_second: Flags
    """By segment: whether it is the second table's."""
    label: Ints
    """By segment: its label, as a place in `CommonLabels.names`."""
    rle: pa.Array
    """By segment: its run lengths."""


def read_pairs(
    first: TableStore, second: TableStore, *, labels: CommonLabels
) -> Iterator[PairedImages]:
    """Yields all images of both tables, whole images at a time.

    Raises:
        ValueError: a row has a label that its table does not know.
    """
    with (
        scratch_database() as database,
        database.view("images_a", _images(first)),
        database.view("images_b", _images(second)),
        database.view("segments_a", _segments(first)),
        database.view("segments_b", _segments(second)),
    ):
        for rows in _whole_images(database.batches(_IN_ORDER)):
            yield _paired(rows, labels=labels)


def _images(table: TableStore) -> pa.RecordBatchReader:
    return latest_images(table.uri, columns=_IMAGE_COLUMNS, storage=table.storage)


def _segments(table: TableStore) -> pa.RecordBatchReader:
    return latest_segments(table.uri, columns=_SEGMENT_COLUMNS, storage=table.storage)


def _whole_images(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Cuts sorted rows between images."""
    held: list[pa.Table] = []
    for batch in batches:
        if not len(batch):
            continue
        rows = pa.Table.from_batches([batch])
        ids = rows["image_id"].combine_chunks()
        # The last image may go on in the next batch.
        begin_of_last = pc.index(ids, ids[-1]).as_py()
        is_same = held and held[-1]["image_id"][-1] == ids[0]
        if begin_of_last == 0 and (is_same or not held):
            held.append(rows)
            continue
        yield pa.concat_tables([*held, rows.slice(0, begin_of_last)])
        held = [rows.slice(begin_of_last)]
    if held:
        yield pa.concat_tables(held)


def _paired(rows: pa.Table, *, labels: CommonLabels) -> PairedImages:
    encoded = rows["image_id"].combine_chunks().dictionary_encode()
    place = encoded.indices.to_numpy().astype(np.int64)
    side = rows["side"].to_numpy().astype(np.int64)
    is_segment = rows["segment_id"].to_numpy() > 0
    is_image = ~is_segment
    there = (side[is_image], place[is_image])
    shape = (2, len(encoded.dictionary))
    is_there, is_ok = np.zeros(shape, bool), np.zeros(shape, bool)
    is_there[there] = True
    is_ok[there] = pc.equal(rows["status"], "ok").to_numpy()[is_image].astype(bool)
    sizes = {}
    for name in ("height", "width"):
        sizes[name] = np.zeros(shape, np.int64)
        sizes[name][there] = pc.fill_null(rows[name], 0).to_numpy()[is_image]
    is_second = side[is_segment] == 1
    label_id = pc.fill_null(rows["label_id"], -1).to_numpy()[is_segment].astype(np.int64)
    return PairedImages(
        image_ids=encoded.dictionary,
        is_there=is_there,
        is_ok=is_ok,
        heights=sizes["height"],
        widths=sizes["width"],
        image=place[is_segment],
        is_second=is_second,
        label=_places_of_labels(label_id, is_second, labels=labels),
        rle=rows["rle"].filter(pa.array(is_segment)).combine_chunks(),
    )


def _places_of_labels(label_id: Ints, is_second: Flags, *, labels: CommonLabels) -> Ints:
    found = np.zeros_like(label_id)
    sides: Sequence[tuple[Flags, Ints]] = ((~is_second, labels.first), (is_second, labels.second))
    for is_own, place_of in sides:
        own = label_id[is_own]
        if ((own < 0) | (own >= len(place_of))).any():
            raise ValueError(
                f"a label_id must be 0 to {len(place_of) - 1}, a segment has "
                f"{own.max()}; see maskformer verify"
            )
        found[is_own] = place_of[own]
    return found

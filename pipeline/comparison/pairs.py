"""Reads two tables side by side, ordered by image_id, some thousand images at a time.

The latest rows of both tables go to files on disk, each of which holds a range of ids and fits into
memory; `agreement.py` measures one after the other. Memory stays the same however many rows there
are. A sort by DuckDB of rows with run lengths ran out of memory at a hundred megabytes of them.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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

_RANGE_BYTES = 2**22
"""Bytes of segments files, compressed, whose rows are in memory at once."""
_ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("side", pa.int8()),
        ("segment_id", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("is_ok", pa.bool_()),
        ("label_id", pa.int32()),
        ("rle", pa.string()),
    ]
)
"""An image's own row has segment_id 0, and so comes before those of its segments."""
_EVERY_NTH_ID = """
    SELECT image_id FROM (
        SELECT image_id, row_number() OVER (ORDER BY image_id) AS place FROM images
    ) WHERE place % ? = 0 ORDER BY image_id
"""


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


def spread_rows(
    first: TableStore,
    second: TableStore,
    *,
    folder: str,
    on_images: Callable[[int], object] = lambda count: None,
) -> list[Path]:
    """Writes the latest rows of both tables to files, each of a range of ids; returns these.

    Args:
        folder: an empty folder on a disk.
        on_images: called with the number of images whose segments were just read.
    """
    starts = _starts_of_ranges(first, second)
    files = [Path(folder, f"{number}.arrow") for number in range(len(starts) + 1)]
    for side, table in enumerate((first, second)):
        for rows in _rows(table, side=side, on_images=on_images):
            for number, part in _by_range(rows, starts):
                _append(part, files[number])
    return files


def pairs_of_files(files: Sequence[Path], *, labels: CommonLabels) -> Iterator[PairedImages]:
    """Yields the images of files that `spread_rows` wrote, and removes the files."""
    for file in files:
        rows_of_range = _read(file)
        file.unlink(missing_ok=True)
        if len(rows_of_range):
            order = [(name, "ascending") for name in ("image_id", "side", "segment_id")]
            yield _paired(rows_of_range.sort_by(order), labels=labels)


def _append(rows: pa.RecordBatch, file: Path) -> None:
    """Adds rows at the end of a file, which need not stay open: there may be thousands."""
    with open(file, "ab") as sink, pa.ipc.new_stream(sink, _ROWS, options=_PACKED) as writer:
        writer.write_batch(rows)


def _read(file: Path) -> pa.Table:
    parts = []
    size = file.stat().st_size if file.exists() else 0
    with open(file, "rb") if size else io.BytesIO() as source:
        while source.tell() < size:
            with pa.ipc.open_stream(source) as reader:
                parts.append(reader.read_all())
    return pa.concat_tables(parts) if parts else _ROWS.empty_table()


_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def _starts_of_ranges(first: TableStore, second: TableStore) -> list[str]:
    """Returns the ids at which ranges begin, so that each has about as many images."""
    files = [table.segment_files() for table in (first, second)]
    num_bytes = sum(
        file.size for own in files for file in {f.uri: f for f in own.values()}.values()
    )
    num_ranges = num_bytes // _RANGE_BYTES + 1
    if num_ranges == 1:
        return []
    counts = [
        latest_images(table.uri, columns=["image_id"], storage=table.storage)
        for table in (first, second)
    ]
    with scratch_database() as database:
        database.run("CREATE TABLE images (image_id TEXT)")
        with database.view("ids", counts[0]):
            database.run("INSERT INTO images SELECT image_id FROM ids")
        with database.view("ids", counts[1]):
            database.run(
                "INSERT INTO images SELECT image_id FROM ids ANTI JOIN images USING (image_id)"
            )
        [(num_images,)] = database.rows("SELECT count(*) FROM images")
        step = max(1, -(-num_images // num_ranges))
        return [image_id for (image_id,) in database.rows(_EVERY_NTH_ID, step)]


def _rows(
    table: TableStore, *, side: int, on_images: Callable[[int], object]
) -> Iterator[pa.RecordBatch]:
    images = latest_images(
        table.uri, columns=("image_id", "height", "width", "status"), storage=table.storage
    )
    for batch in images:
        is_ok = pc.equal(batch["status"], "ok")
        yield _completed(batch, side=side, segment_id=pa.scalar(0), is_ok=is_ok)
    segments = latest_segments(
        table.uri, columns=("image_id", "segment_id", "label_id", "rle"), storage=table.storage
    )
    for batch in segments:
        yield _completed(batch, side=side)
        on_images(pc.count_distinct(batch["image_id"]).as_py())


def _completed(batch: pa.RecordBatch, *, side: int, **more: pa.Scalar | pa.Array) -> pa.RecordBatch:
    """Returns the columns of `_ROWS`, null where the batch has none."""
    columns: list[pa.Array] = []
    for field in _ROWS:
        if field.name == "side":
            column: pa.Array | pa.Scalar = pa.scalar(side, field.type)
        elif field.name in more:
            column = more[field.name]
        elif field.name in batch.schema.names:
            column = batch[field.name]
        else:
            column = pa.scalar(None, field.type)
        if isinstance(column, pa.Scalar):
            column = pa.repeat(column, len(batch))
        columns.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=_ROWS)


def _by_range(rows: pa.RecordBatch, starts: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields the rows of each range of ids with its number."""
    if not starts or not len(rows):
        yield 0, rows
        return
    ids = rows["image_id"].dictionary_encode()
    number_of_id = np.array([bisect_right(starts, name) for name in ids.dictionary.to_pylist()])
    numbers = number_of_id[ids.indices.to_numpy()]
    for number in np.unique(numbers).tolist():
        yield number, rows.filter(pa.array(numbers == number))


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
    is_ok[there] = pc.fill_null(rows["is_ok"], False).to_numpy()[is_image]
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

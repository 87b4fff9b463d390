"""Draws segments over images of the run, which are read again from the corpus.

The pictures are small JPEGs, bounded in number and bytes. Where an image was replaced, is gone or
lies too deep in an archive, the picture gives that reason instead: the run itself was successful.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.nightly.reporting.run_data import plan_file, rows_where
from pipeline.storage import SourceChanged, StorageFault
from pipeline.table.drawing import draw_segments
from pipeline.table.small_pictures import drawable, shrunk_size, small_jpeg, small_mask
from pipeline.table.store import TableStore

_MOST_PIXELS = 64_000_000
_MOST_JPEG_BYTES = 27_000
_MOST_FAULTS = 3


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A small JPEG of one image, or the reason why there is none."""

    image_id: str
    where: str
    """The object in storage, and the member of an archive."""
    jpeg: bytes | None
    missing: str = ""
    height: int = 0
    width: int = 0


def pictures(
    table: TableStore,
    run_id: str,
    wanted: Sequence[tuple[str, str]],
    *,
    reading: ReadSettings,
    picture_bytes: int,
) -> dict[str, Picture]:
    """Returns pictures by image_id.

    Args:
        wanted: unit_id and image_id of each image.
        picture_bytes: most encoded bytes to read for one image.
    """
    of_unit: dict[str, list[str]] = defaultdict(list)
    for unit_id, image_id in wanted:
        of_unit[unit_id].append(image_id)
    sources = _sources(table, run_id, units=list(of_unit))
    found: dict[str, Picture] = {}
    faults = 0
    for unit_id, image_ids in of_unit.items():
        images = _rows(table, "images", unit_id, image_ids)
        segments = _rows(table, "segments", unit_id, image_ids)
        for image_id in image_ids:
            row = next(iter(images.get(image_id, ())), None)
            if row is None:
                found[image_id] = _missing(image_id, "", "its row was removed")
                continue
            if faults == _MOST_FAULTS:
                found[image_id] = _missing(image_id, _where(row), "not tried, storage failed")
                continue
            try:
                found[image_id] = _picture(
                    row,
                    segments.get(image_id, []),
                    table=table,
                    sources=[s for s in sources[unit_id] if s.uri == row["uri"]],
                    reading=reading,
                    picture_bytes=picture_bytes,
                )
            except StorageFault:
                faults += 1
                found[image_id] = _missing(image_id, _where(row), "storage failed")
    return found


def _picture(
    row: Mapping[str, Any],
    segments: Sequence[Mapping[str, Any]],
    *,
    table: TableStore,
    sources: Sequence[Source],
    reading: ReadSettings,
    picture_bytes: int,
) -> Picture:
    image_id, where = row["image_id"], _where(row)
    if row["height"] * row["width"] > _MOST_PIXELS:
        return _missing(image_id, where, f"{row['height']} x {row['width']} is too large to draw")
    try:
        image = _find(image_id, sources, table=table, reading=reading, picture_bytes=picture_bytes)
        if image is None:
            return _missing(
                image_id, where, f"not within the first {picture_bytes:,} bytes of its source"
            )
        size = (row["height"], row["width"])
        decoded = decode(
            image.data or b"",
            name=image.name,
            mode="fast",
            target_size=shrunk_size(size),
            max_pixels=_MOST_PIXELS,
        )
        height, width = shrunk_size(size)
        drawn = draw_segments(
            decoded.image.resize((width, height)),
            drawable(segments),
            mask_of=small_mask,
        )
    except SourceChanged:
        return _missing(image_id, where, "replaced or gone since it was labelled")
    except ImageError as error:
        return _missing(image_id, where, f"cannot be decoded any more: {error.error_class}")
    except (ValueError, MemoryError) as error:  # a missing picture must not stop the report
        return _missing(image_id, where, f"cannot be drawn: {type(error).__name__}")
    return Picture(
        image_id=image_id,
        where=where,
        jpeg=small_jpeg(drawn, most_bytes=_MOST_JPEG_BYTES),
        height=drawn.height,
        width=drawn.width,
    )


def _find(
    image_id: str,
    sources: Sequence[Source],
    *,
    table: TableStore,
    reading: ReadSettings,
    picture_bytes: int,
) -> EncodedImage | None:
    """Reads the image from its unit's sources; None if too many bytes lie before it."""
    read = 0
    for source in sources:
        if source.kind == "file" and source.size > picture_bytes:
            return None
        for image in read_source(source, storage=table.storage, settings=reading):
            if image.image_id == image_id:
                return image
            read += len(image.data or b"")
            if read > picture_bytes:
                return None
    # The sources still have the etags that were labelled, so only settings can have changed.
    return None


def _sources(table: TableStore, run_id: str, *, units: Sequence[str]) -> dict[str, list[Source]]:
    """Reads the sources of some units from the run's plan."""
    found: dict[str, list[Source]] = defaultdict(list)
    fields = Source.__dataclass_fields__
    for row in rows_where(table, plan_file(table, run_id), column="unit_id", values=units):
        known: dict[str, Any] = {name: value for name, value in row.items() if name in fields}
        found[str(row["unit_id"])].append(Source(**known))
    return found


def _rows(
    table: TableStore, part: str, unit_id: str, image_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    file = table.file(part, f"{unit_id}.parquet")
    for row in rows_where(table, file, column="image_id", values=image_ids):
        rows[str(row["image_id"])].append(row)
    return rows


def _where(row: Mapping[str, Any]) -> str:
    return row["uri"] if row["member"] is None else f"{row['uri']}, member {row['member']}"


def _missing(image_id: str, where: str, reason: str) -> Picture:
    return Picture(image_id=image_id, where=where, jpeg=None, missing=reason)

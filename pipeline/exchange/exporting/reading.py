"""Reads a table as records for export: the latest rows of each image, newest reviews over them.

Takes a table and its photographs; the writer of a format takes the records, one by one. Memory
holds a few units, whatever the size of the table.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pycocotools import mask as coco

from pipeline.corpora.sources import Source
from pipeline.exchange.exporting.photographs import (
    Photograph,
    SourcePhotographs,
    sources_by_unit,
    sources_of_rows,
)
from pipeline.exchange.exporting.reviews import NewestReviews
from pipeline.exchange.exporting.selection import Selection
from pipeline.exchange.exporting.survey import Splits, Survey, known_ending
from pipeline.exchange.exporting.units import UnitToExport, read_units_to_export, rows_by_image
from pipeline.exchange.records import ExportSegment, ImageExport
from pipeline.reviews.revision import Revision
from pipeline.runtime.threads import map_ahead
from pipeline.table.store import TableStore

_READS_AT_ONCE = 16
_ASSUMED_ENDING = "jpg"
_EXAMPLES = 3
_SEGMENT_COLUMNS = (
    "segment_id", "label_id", "is_thing", "score", "area", "bbox_x", "bbox_y", "bbox_w", "bbox_h",
    "height", "width", "rle", "origin",
)  # fmt: skip


@dataclass
class ExportCounts:
    """Counts of the images and segments read so far; grow while the records are taken."""

    images: int = 0
    """Images given to the writer."""
    without_segments: int = 0
    """Of these, images without any segment in the export."""
    reviewed: int = 0
    """Of these, images whose segments are those of a review."""
    segments: int = 0
    not_selected: int = 0
    """Segments that the settings leave out."""
    splits: Counter[str] = field(default_factory=Counter)
    """Images by split."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Images left out, by reason."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first of them by reason: image_id and message."""

    def leave_out(self, image_id: str, reason: str, message: str = "") -> None:
        """Counts an image that is not exported."""
        self.left_out[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append(f"{image_id}: {message}" if message else image_id)


@dataclass(frozen=True, kw_only=True)
class TableReader:
    """Reads the records of an export."""

    table: TableStore
    survey: Survey
    splits: Splits
    selection: Selection
    reviews: NewestReviews
    photographs: SourcePhotographs | None
    """None to leave the photographs where they are."""
    model: str
    counts: ExportCounts = field(default_factory=ExportCounts)

    def records(self) -> Iterator[ImageExport]:
        """Yields a record for each image without error, in the order of units and positions.

        Raises:
            StorageFault: the storage failed, after retries.
            ValueError: a file of the table is damaged.
        """
        numbers = itertools.count(1)
        for record in self._with_photographs() if self.photographs else self._without():
            yield self._counted(record, number=next(numbers))

    def _without(self) -> Iterator["_Draft"]:
        for unit in self._units():
            for row in unit.rows:
                yield _Draft(unit=unit, row=row, ending=known_ending(row) or _ASSUMED_ENDING)

    def _with_photographs(self) -> Iterator["_Draft"]:
        """Reads the photographs of several sources ahead; those of an archive one by one."""
        photographs = self.photographs
        assert photographs is not None

        def read(item: "_Item") -> tuple["_Item", Iterable[Photograph]]:
            if item.source is None:
                return item, ()
            found = photographs.of_source(item.source, item.unit.by_id)
            return item, list(found) if item.source.kind == "file" else found

        given: set[str] = set()
        for item, found in map_ahead(read, self._items(), num_threads=_READS_AT_ONCE):
            for photo in found:
                given.add(photo.image_id)
                if photo.problem is not None:
                    self.counts.leave_out(photo.image_id, photo.problem, photo.message)
                else:
                    row = item.unit.by_id[photo.image_id]
                    yield _Draft(unit=item.unit, row=row, ending=photo.ending, photo=photo)
            if item.source is None:  # the unit is over
                for image_id, row in item.unit.by_id.items():
                    if image_id not in given:
                        message = f"not found in {row['uri']} any more"
                        self.counts.leave_out(image_id, "NotFound", message)
                given = set()

    def _items(self) -> Iterator["_Item"]:
        """Yields the sources of each unit, and None behind the last one."""
        planned = sources_by_unit(self.table, self.survey.units)
        of_unit = next(planned, None)
        for unit in self._units():
            while of_unit is not None and of_unit[0] != unit.unit_id:
                of_unit = next(planned, None)
            sources = of_unit[1] if of_unit is not None else []
            if not sources:
                sources = sources_of_rows(unit.rows, storage=self.table.storage)
            for source in [*sources, None]:
                yield _Item(unit=unit, source=source)

    def _units(self) -> Iterator["_Unit"]:
        for rows in read_units_to_export(
            self.table, self.survey.units, done=self.survey.done, now=self.survey.now
        ):
            yield self._unit(rows)

    def _unit(self, rows: UnitToExport) -> "_Unit":
        images = rows.images.to_pylist()
        revisions = self.reviews.of_images(images)
        kept, laid = [], {}
        for row in images:
            image_id = row["image_id"]
            choice = self.reviews.choice(revisions.get(image_id), row)
            if choice.left_out is not None:
                self.counts.leave_out(image_id, choice.left_out)
                continue
            kept.append(row)
            if choice.revision is not None:
                laid[image_id] = choice.revision
        selected = self.selection.of(rows.segments)
        all_places = rows_by_image(rows.segments).items()
        return _Unit(
            unit_id=rows.unit_id,
            rows=kept,
            by_id={row["image_id"]: row for row in kept},
            columns=_columns(selected),
            places=rows_by_image(selected),
            num_segments={image_id: stop - start for image_id, (start, stop) in all_places},
            revisions=laid,
        )

    def _counted(self, draft: "_Draft", *, number: int) -> ImageExport:
        row, unit = draft.row, draft.unit
        image_id = row["image_id"]
        revision = unit.revisions.get(image_id)
        if revision is not None:
            selected = self.selection.of(self.reviews.segments(revision))
            segments = _segments(_columns(selected), 0, len(selected), selection=self.selection)
            total = len(revision.segments)
        else:
            start, stop = unit.places.get(image_id, (0, 0))
            segments = _segments(unit.columns, start, stop, selection=self.selection)
            total = unit.num_segments.get(image_id, 0)
        split = self.splits.of(image_id)
        counts = self.counts
        counts.images += 1
        counts.without_segments += not segments
        counts.reviewed += revision is not None
        counts.segments += len(segments)
        counts.not_selected += total - len(segments)
        counts.splits[split] += 1
        photo = draft.photo
        return ImageExport(
            number=number,
            image_id=image_id,
            name=f"{self.survey.names.stem(row)}.{draft.ending}",
            split=split,
            height=row["height"],
            width=row["width"],
            uri=row["uri"],
            member=row["member"],
            segments=segments,
            photo=photo.data if photo else None,
            linked=photo.linked if photo else None,
            model=self.model,
            revision=revision.revision if revision else 0,
            etag=row["etag"] or "",
        )


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """A unit with its selected segments, as columns of Python values."""

    unit_id: str
    rows: Sequence[Mapping[str, Any]]
    by_id: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, Sequence[Any]]
    places: Mapping[str, tuple[int, int]]
    num_segments: Mapping[str, int]
    """Segments before the selection, by image."""
    revisions: Mapping[str, Revision]


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A source of a unit; None behind the last one."""

    unit: _Unit
    source: Source | None


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """An image that will be exported."""

    unit: _Unit
    row: Mapping[str, Any]
    ending: str
    photo: Photograph | None = None


def _columns(rows: pa.Table) -> dict[str, list[Any]]:
    """Returns the columns as lists; those that older tables lack are empty."""
    names = [name for name in _SEGMENT_COLUMNS if name in rows.schema.names]
    return {name: rows[name].to_pylist() for name in names}


def _segments(
    columns: Mapping[str, Sequence[Any]], start: int, stop: int, *, selection: Selection
) -> list[ExportSegment]:
    nothing = [None] * (stop - start)
    values = [
        columns[name][start:stop] if name in columns else nothing for name in _SEGMENT_COLUMNS
    ]
    segments = []
    for (
        segment_id, label_id, is_thing, score, area, x, y, w, h, height, width, rle, origin,
    ) in zip(*values, strict=True):  # fmt: skip
        label = selection.labels[label_id]
        if area is None or x is None:
            area, (x, y, w, h) = _measured(rle, height=height, width=width)
        segments.append(
            ExportSegment(
                segment_id, label.index, label.name,
                label.is_thing if is_thing is None else is_thing, score, area, (x, y, w, h), rle,
                origin or "model",
            )
        )  # fmt: skip
    return segments


def _measured(rle: str, *, height: int, width: int) -> tuple[int, tuple[int, int, int, int]]:
    """Returns area and box of a segment of a table that lacks them."""
    mask = {"size": [height, width], "counts": rle.encode()}
    x, y, w, h = (int(value) for value in coco.toBbox(mask))
    return int(coco.area(mask)), (x, y, w, h)

"""Reads what a table and its reviews hold of the images of a file: the states to compare with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipeline.corpora.parquet import read_parquet
from pipeline.exchange.exporting.units import rows_by_image
from pipeline.exchange.importing.grouping import MatchedImage
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import ModelState, model_segment
from pipeline.reviews.reviewed import reason_stale
from pipeline.reviews.revision import ReviewedSegment, Revision, review_key
from pipeline.storage import File
from pipeline.table.plans import plan_numbers
from pipeline.table.store import TableSpec, TableStore, rows_of_unit


@dataclass(frozen=True, kw_only=True)
class ImageState:
    """The segments of an image before the import."""

    unit: "_UnitRows"
    place: tuple[int, int]
    """First and behind the last of the model's rows in its unit."""
    etag: str
    """Etag of the photograph that the table has now."""
    newest: Revision | None
    """The newest revision, of whatever version of the photograph."""
    parent: int
    """The revision that the segments are of; 0 for the model's rows."""
    reviewed: tuple[ReviewedSegment, ...] | None
    """The segments of that revision; None for the model's rows."""

    @cached_property
    def model_segments(self) -> tuple[ReviewedSegment, ...]:
        start, stop = self.place
        rows = self.unit.rows.slice(start, stop - start).to_pylist()
        return tuple(model_segment(row) for row in rows)

    @property
    def segments(self) -> tuple[ReviewedSegment, ...]:
        return self.model_segments if self.reviewed is None else self.reviewed

    def is_newest(self, segments: Sequence[ReviewedSegment]) -> bool:
        """Returns True if the newest revision has these labels and masks, after the parent's."""
        if self.newest is None or self.newest.revision == self.parent:
            return False
        new, known = (
            sorted((each.label, each.rle) for each in these)
            for these in (segments, self.newest.segments)
        )
        return new == known and self.newest.base_etag == self.etag

    def labels_and_rles(self) -> list[tuple[str, str]]:
        """Returns label and run lengths of each segment, sorted."""
        if self.reviewed is None:
            start, stop = self.place
            return sorted(self.unit.labels_and_rles[start:stop])
        return sorted((segment.label, segment.rle) for segment in self.reviewed)


@dataclass(frozen=True, kw_only=True)
class _UnitRows:
    """The segments of a unit."""

    rows: pa.Table
    labels_and_rles: Sequence[tuple[str, str]]
    places: Mapping[str, tuple[int, int]]
    """By image_id, the first row of an image and the one behind its last."""

    @classmethod
    def of(cls, rows: pa.Table) -> "_UnitRows":
        labels, rles = (rows[name].to_pylist() for name in ("label", "rle"))
        return cls(
            rows=rows,
            labels_and_rles=list(zip(labels, rles, strict=True)),
            places=rows_by_image(rows),
        )


@dataclass(kw_only=True)
class TableStates:
    """Reads states unit by unit; the rows of one unit are in memory."""

    table: TableStore
    log: ReviewLog
    spec: TableSpec
    ignores_reviews: bool
    """True if the file was made of the model's segments alone."""
    _unit_id: str | None = None
    _unit: _UnitRows | None = None

    @cached_property
    def _files(self) -> Mapping[str, File]:
        return self.table.segment_files()

    @cached_property
    def _plans(self) -> Mapping[str, int]:
        return plan_numbers(self.table)

    @cached_property
    def _newest_numbers(self) -> Mapping[str, int]:
        return dict(self.log.listing().newest())

    def of(self, image: MatchedImage) -> ImageState:
        """Returns the state that the file was made of: that of its revision, else the newest."""
        if self._unit is None or image.unit_id != self._unit_id:
            self._unit = self._read_unit(image.unit_id)
            self._unit_id = image.unit_id
        newest = self._newest(image.image_id)
        parent, reviewed = 0, None
        asked = 0 if self.ignores_reviews else image.revision
        if newest is not None and asked != 0 and self._counts(newest, image):
            number = asked or newest.revision
            at = newest
            if 0 < number < newest.revision:
                at = self.log.read(image.image_id, number)
            if self._counts(at, image):
                parent = at.revision
                reviewed = () if at.status == "unusable" else at.segments
        return ImageState(
            unit=self._unit,
            place=self._unit.places.get(image.image_id, (0, 0)),
            etag=image.etag,
            newest=newest,
            parent=parent,
            reviewed=reviewed,
        )

    def model_of(self, image: MatchedImage, state: ImageState) -> ModelState:
        """Returns what a revision says of the model's rows that it is about."""
        return ModelState(
            image_id=image.image_id,
            unit_id=image.unit_id,
            plan=self._plans.get(image.unit_id, -1),
            etag=image.etag,
            table_fingerprint=self._fingerprint,
            model_fingerprint=self.spec.model_fingerprint,
            height=image.height,
            width=image.width,
            segments=state.model_segments,
        )

    @cached_property
    def _fingerprint(self) -> str:
        return self.spec.fingerprint

    def _counts(self, revision: Revision, image: MatchedImage) -> bool:
        row = {
            "etag": image.etag, "height": image.height, "width": image.width, "status": "ok",
        }  # fmt: skip
        return reason_stale(revision, row, spec=self.spec) is None

    def _newest(self, image_id: str) -> Revision | None:
        if not self._newest_numbers:
            return None
        number = self._newest_numbers.get(review_key(image_id))
        return None if number is None else self.log.read(image_id, number)

    def _read_unit(self, unit_id: str) -> _UnitRows:
        file = self._files[unit_id]
        with self.table.storage.open(file.uri, etag=file.etag, size=file.size) as data:
            return _UnitRows.of(read_parquet(data, rows=rows_of_unit(file.uri, unit_id)))

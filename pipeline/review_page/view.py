"""Holds what the page shows: a table, its index, its photographs and its reviews.

`api.py` turns requests into calls of this; all calls block, so that it makes them in threads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.cache import ByteCache
from pipeline.review_page.index import EVERYTHING, Range, TableIndex
from pipeline.review_page.photographs import Photographs
from pipeline.review_page.pictures import THUMBNAIL_QUALITY, PictureMaker, PictureRequest
from pipeline.review_page.reading_index import read_index
from pipeline.review_page.segment_rows import SegmentRows
from pipeline.review_page.settings import ReviewSettings, ViewSettings
from pipeline.storage import Storage
from pipeline.table.label_colours import label_colour
from pipeline.table.store import TableSpec, TableStore

_THUMBNAIL_BYTES = 2**26
_PHOTO_BYTES = 2**25


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the grid asks for: filters, an order and a part of it."""

    sort: str = "name"
    descending: bool = False
    label_id: int | None = None
    scores: Range = EVERYTHING
    status: tuple[str, ...] = ()
    reviewer: str | None = None
    offset: int = 0
    limit: int = 100


class TableView:
    """A table as the page shows it."""

    def __init__(
        self,
        settings: ViewSettings,
        review: ReviewSettings | None,
        *,
        storage: Storage,
        reading: ReadSettings,
    ) -> None:
        """Opens the table; `load` reads its index.

        Raises:
            FileNotFoundError: there is no table.
            ValueError: its `_table.json` is of another version.
        """
        self.settings, self.review = settings, review
        self.table = TableStore(settings.table, storage)
        content = self.table.spec()
        if content is None:
            raise FileNotFoundError(f"{self.table.uri} is no segment table: it has no _table.json")
        self.spec = TableSpec.of(content)
        self.storage, self.reading = storage, reading
        self.photographs = Photographs(
            storage=storage, reading=reading, image_root=settings.image_root
        )
        self.segments = SegmentRows(self.table)
        self.pictures = PictureMaker(reading)
        self._thumbnails = ByteCache(most_bytes=_THUMBNAIL_BYTES)
        self._photos = ByteCache(most_bytes=_PHOTO_BYTES)
        self.index: TableIndex

    def load(self) -> None:
        """Reads the index."""
        self.index = read_index(
            self.table.uri, num_labels=len(self.spec.labels), storage=self.storage
        )

    def close(self) -> None:
        self.pictures.close()

    @property
    def can_save(self) -> bool:
        return self.review is not None

    def is_thing(self, label_id: int) -> bool:
        """Returns whether segments of a label are things."""
        return self.spec.task != "semantic" and label_id not in (self.spec.label_ids_to_fuse or ())

    def about(self, *, reviewer: str | None) -> dict[str, Any]:
        """Describes the table: `GET /api/table`."""
        counts = self.index.segments.counts.tolist()
        return {
            "table": self.table.uri,
            "task": self.spec.task,
            "labels": [
                {
                    "id": label_id,
                    "name": name,
                    "is_thing": self.is_thing(label_id),
                    "color": label_colour(name, label_id),
                    "segments": counts[label_id],
                }
                for label_id, name in enumerate(self.spec.labels)
            ],
            "images": len(self.index),
            "images_in_error": self.index.num_errors,
            "reviewer": reviewer,
            "can_save": self.can_save,
            "queue": "rank" in self.index.values,
            "counts": {"unreviewed": len(self.index)},
            "sorts": self.sorts(),
        }

    def sorts(self) -> list[str]:
        """Returns the names that the grid can be sorted by, the usual first."""
        optional = {"rank": "queue", "disagreement": "disagreement"}
        present = [name for column, name in optional.items() if column in self.index.values]
        return [*present, "name", "mean_score", "coverage", "strangeness"]

    def listed(self, wanted: Listed) -> dict[str, Any]:
        """Returns a part of the grid: `GET /api/images`."""
        chosen = self._chosen(wanted)
        total = int(chosen.sum())
        column = "rank" if wanted.sort == "queue" else wanted.sort
        order = self.index.sorted_by(column, descending=wanted.descending)
        places = order[chosen[order]][wanted.offset : wanted.offset + wanted.limit]
        return {"total": total, "images": self._described(places)}

    def _chosen(self, wanted: Listed) -> npt.NDArray[np.bool_]:
        count = len(self.index)
        if wanted.label_id is not None:
            chosen = self.index.segments.images_with(
                wanted.label_id, scores=wanted.scores, num_images=count
            )
        elif not wanted.scores.is_everything:
            chosen = wanted.scores.holds(self.index.values["mean_score"])
        else:
            chosen = np.ones(count, np.bool_)
        if wanted.sort == "queue":
            chosen = chosen & ~np.isnan(self.index.values["rank"])
        return chosen

    def _described(self, places: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        rows = self.index.rows(places)
        return [
            {
                "image_id": row["image_id"],
                "height": row["height"],
                "width": row["width"],
                "num_segments": row["num_segments"],
                "coverage": row["coverage"],
                "mean_score": row["mean_score"],
                "strangeness": self._value("strangeness", place),
                "disagreement": self._value("disagreement", place),
                "rank": self._value("rank", place),
                "reasons": self.index.reasons.get(place, []),
                "status": None,
                "reviewer": None,
                "revision": 0,
                "saved_at": None,
                "is_stale": False,
            }
            for place, row in zip(places.tolist(), rows, strict=True)
        ]

    def _value(self, column: str, place: int) -> float | None:
        values = self.index.values.get(column)
        value = math.nan if values is None else float(values[place])
        return None if math.isnan(value) else round(value, 6)

    def row(self, image_id: str) -> dict[str, Any]:
        """Returns the columns of an image.

        Raises:
            KeyError: the table has no such image without error.
        """
        place = self.index.place(image_id)
        if place is None:
            raise KeyError(image_id)
        return self.index.row(place)

    def image_segments(self, image_id: str) -> dict[str, Any]:
        """Returns the latest state of an image: `GET /api/segments`."""
        row = self.row(image_id)
        return {
            "image_id": image_id,
            "height": row["height"],
            "width": row["width"],
            "revision": 0,
            "status": None,
            "comment": None,
            "reviewer": None,
            "created_at": None,
            "is_stale": False,
            "segments": [model_segment(each) for each in self.segments.of_image(row)],
        }

    def photo(self, image_id: str, *, longest_side: int | None) -> bytes:
        """Returns a photograph as a JPEG, upright: `GET /api/photo`."""
        row = self.row(image_id)
        key = (image_id, longest_side)
        kept = self._photos.get(key)
        if kept is None:
            kept = self._picture(row, longest_side=longest_side)
            self._photos.put(key, kept)
        return kept

    def thumbnail(self, image_id: str, *, size: int, overlay: bool) -> bytes:
        """Returns a small picture as a JPEG: `GET /api/thumbnail`."""
        row = self.row(image_id)
        key = (image_id, size, overlay)
        kept = self._thumbnails.get(key)
        if kept is None:
            segments = self.image_segments(image_id)["segments"] if overlay else ()
            kept = self._picture(
                row, longest_side=size, segments=tuple(segments), quality=THUMBNAIL_QUALITY
            )
            self._thumbnails.put(key, kept)
        return kept

    def _picture(self, row: Mapping[str, Any], **options: Any) -> bytes:
        image = self.photographs.read(row)
        request = PictureRequest(
            image_id=image.image_id, uri=image.uri, member=image.member, etag=image.etag,
            data=image.data, row=image.row, height=row["height"], width=row["width"], **options,
        )  # fmt: skip
        return self.pictures.make(request)


def model_segment(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of `segments` with the columns of a reviewed one."""
    columns = {
        name: row.get(name)
        for name in (
            "segment_id", "label_id", "label", "is_thing", "score", "second_label_id",
            "second_label", "second_score", "area", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "rle",
        )
    }  # fmt: skip
    return {**columns, "origin": "model", "origin_segment_id": row["segment_id"]}

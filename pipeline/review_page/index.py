"""Holds the images and segments of a table in memory, to sort, filter and count them.

`reading_index.py` fills it from the table, `reviewed_state.py` knows what was reviewed, and
`api.py` asks. Columns are numpy and Arrow arrays: a million segments take 12 MB.
"""

import bisect
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.review_page.arrow_arrays import Column, arrow_integers, numpy_numbers, places_in


class UnknownImage(LookupError):
    """The table has no such image, or has it in error."""


Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelSegments:
    """The segments of a table, grouped by label."""

    starts: npt.NDArray[np.int64]
    """The first segment of each label; one more entry says where the last label ends."""
    images: npt.NDArray[np.int32]
    """The image of each segment, as its place among the images."""
    scores: Floats

    @classmethod
    def of(
        cls,
        *,
        images: npt.NDArray[np.int32],
        labels: npt.NDArray[np.int32],
        scores: Floats,
        num_labels: int,
    ) -> "LabelSegments":
        """Groups segments in any order."""
        few = labels.astype(np.int16) if num_labels < 2**15 else labels  # sorted by digits
        order = np.argsort(few, kind="stable")
        counts = np.bincount(labels, minlength=num_labels)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(starts=starts, images=images[order], scores=scores[order])

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Returns the number of segments of each label."""
        return np.diff(self.starts)

    def counts_in(self, images: Mask) -> npt.NDArray[np.int64]:
        """Returns the number of segments of each label in some images."""
        before = np.concatenate([[0], np.cumsum(images[self.images])])
        return np.diff(before[self.starts])

    def images_with(self, label_id: int, *, scores: "ScoreRange", num_images: int) -> Mask:
        """Returns True for images with a segment of the label and a score in the range."""
        found = slice(self.starts[label_id], self.starts[label_id + 1])
        images = self.images[found]
        if not scores.is_everything:
            images = images[scores.holds(self.scores[found])]
        result = np.zeros(num_images, np.bool_)
        result[images] = True
        return result


@dataclass(frozen=True)
class ScoreRange:
    """A range of scores, with both ends; None where it has no end."""

    low: float | None = None
    high: float | None = None

    @property
    def is_everything(self) -> bool:
        return self.low is None and self.high is None

    def holds(self, values: Floats) -> Mask:
        """Returns True for the values within; False where there is no value."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return (values >= low) & (values <= high)


EVERYTHING = ScoreRange()


class TableIndex:
    """The images of a table without error, in the order of their ids, and their segments."""

    def __init__(
        self,
        images: pa.Table,
        segments: LabelSegments,
        *,
        strangeness: Floats,
        num_errors: int,
    ) -> None:
        """Takes the columns of `reading_index.COLUMNS`, sorted by image_id."""
        self.images = images.combine_chunks()
        self.segments = segments
        self.num_errors = num_errors
        """Number of images that could not be decoded, which are not shown."""
        self._ids = self._column("image_id")
        self.values: dict[str, Floats] = {
            "mean_score": _floats(self._column("mean_score")),
            "coverage": _floats(self._column("coverage")),
            "strangeness": strangeness,
        }
        """Columns to sort by, nan where an image has no value."""
        self.reasons: dict[int, list[str]] = {}
        """Reasons for being in the queue, by place."""
        self._orders: dict[tuple[str, bool], npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    def place(self, image_id: str) -> int | None:
        """Returns the place of an image in the order of ids; None where the table lacks it."""
        at = bisect.bisect_left(
            range(len(self._ids)), image_id, key=lambda place: self._ids[place].as_py()
        )
        return at if at < len(self._ids) and self._ids[at].as_py() == image_id else None

    def known_place(self, image_id: str) -> int:
        """Returns the place of an image.

        Raises:
            UnknownImage: the table has no such image without error.
        """
        place = self.place(image_id)
        if place is None:
            raise UnknownImage(image_id)
        return place

    def row(self, place: int) -> dict[str, Any]:
        """Returns the columns of an image."""
        return self.images.slice(place, 1).to_pylist()[0]

    def rows(self, places: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Returns the columns of images."""
        return self.images.take(arrow_integers(places)).to_pylist()

    def add_column(self, name: str, image_ids: Column, values: npt.NDArray[np.float32]) -> None:
        """Adds a column to sort by; ids that the table lacks are left out."""
        column = np.full(len(self), np.nan, np.float32)
        places = self.places(image_ids)
        is_known = places >= 0
        column[places[is_known]] = values[is_known]
        self.values[name] = column

    def places(self, image_ids: Column) -> npt.NDArray[np.int64]:
        """Returns the places of images, -1 where the table lacks one."""
        return places_in(image_ids, of=self._ids)

    def sorted_by(self, column: str, *, descending: bool) -> npt.NDArray[np.int64]:
        """Returns all places in the order of a column, those without a value last.

        Equals, and images sorted by `name`, come in the order of their ids.
        """
        key = (column, descending)
        with self._lock:
            if key not in self._orders:
                self._orders[key] = self._sorted(column, descending=descending)
            return self._orders[key]

    def _sorted(self, column: str, *, descending: bool) -> npt.NDArray[np.int64]:
        if column == "name":
            order = np.arange(len(self))
            return order[::-1] if descending else order
        values = self.values[column]
        return np.argsort(-values if descending else values, kind="stable")

    def _column(self, name: str) -> pa.Array:
        column = self.images[name].combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _floats(column: pa.Array) -> Floats:
    return numpy_numbers(column, missing=np.nan)

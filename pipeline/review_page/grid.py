"""Sorts and filters the images of a table, and describes a part of them for the grid."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.review_page.index import ScoreRange, TableIndex
from pipeline.review_page.reviewed_state import ReviewedState

_OPTIONAL = {"queue": "rank", "disagreement": "disagreement"}
"""Sorts that need a file beside the table, with their columns."""


@dataclass(frozen=True, kw_only=True)
class GridQuery:
    """The filters, the order and the part of the images that the grid asks for."""

    sort: str
    descending: bool
    label_id: int | None
    scores: ScoreRange
    """Of a segment of the label; without a label, the mean score of the image."""
    states: tuple[str, ...]
    reviewer: str | None
    offset: int
    limit: int


class ImageGrid:
    """The images of a table with what was said of them."""

    def __init__(self, index: TableIndex, state: ReviewedState) -> None:
        self._index, self._state = index, state

    @property
    def sorts(self) -> list[str]:
        """Returns the names of the orders, the usual one first."""
        present = [name for name, column in _OPTIONAL.items() if column in self._index.values]
        return [*present, "name", "mean_score", "coverage", "strangeness", "saved_at"]

    def part(self, query: GridQuery) -> dict[str, Any]:
        """Returns the number of images that the filters leave, and some of them in order."""
        chosen = self._chosen(query)
        order = self._order(query)
        places = order[chosen[order]][query.offset : query.offset + query.limit]
        return {"total": int(chosen.sum()), "images": self._described(places)}

    def _order(self, query: GridQuery) -> npt.NDArray[np.int64]:
        if query.sort == "saved_at":
            values = self._state.saved_at()
            return np.argsort(-values if query.descending else values, kind="stable")
        column = _OPTIONAL.get(query.sort, query.sort)
        return self._index.sorted_by(column, descending=query.descending)

    def _chosen(self, query: GridQuery) -> npt.NDArray[np.bool_]:
        count = len(self._index)
        if query.label_id is not None:
            chosen = self._index.segments.images_with(
                query.label_id, scores=query.scores, num_images=count
            )
            chosen = self._state.with_label(chosen, query.label_id, query.scores)
        elif not query.scores.is_everything:
            chosen = query.scores.holds(self._index.values["mean_score"])
        else:
            chosen = np.ones(count, np.bool_)
        if query.sort == "queue":  # the queue is a list of images, not only an order
            chosen = chosen & ~np.isnan(self._index.values["rank"])
        if query.states:
            chosen = chosen & self._state.has_state(query.states)
        if query.reviewer is not None:
            chosen = chosen & self._state.has_reviewer(query.reviewer)
        return chosen

    def _described(self, places: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        rows = self._index.rows(places)
        return [self._image(place, row) for place, row in zip(places.tolist(), rows, strict=True)]

    def _image(self, place: int, row: dict[str, Any]) -> dict[str, Any]:
        review = self._state.of(place)
        laid_over = review if review is not None and not review.is_stale else None
        rank = self._value("rank", place)
        return {
            "image_id": row["image_id"],
            "height": row["height"],
            "width": row["width"],
            "num_segments": len(laid_over.labels) if laid_over else row["num_segments"],
            "coverage": _rounded(row["coverage"]),
            "mean_score": _rounded(row["mean_score"]),
            "strangeness": self._value("strangeness", place),
            "disagreement": self._value("disagreement", place),
            "rank": None if rank is None else int(rank),
            "reasons": self._index.reasons.get(place, []),
            "status": laid_over.status if laid_over else None,
            "reviewer": review.reviewer if review else None,
            "revision": laid_over.revision if laid_over else 0,
            "saved_at": review.saved_at if review else None,
            "is_stale": review is not None and review.is_stale,
        }

    def _value(self, column: str, place: int) -> float | None:
        values = self._index.values.get(column)
        return None if values is None else _rounded(float(values[place]))


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)

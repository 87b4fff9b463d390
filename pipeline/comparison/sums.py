"""Adds up the agreement of images: counts by state, and matrices of label changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over images; rows of a matrix are labels of the first table, columns of the second.

    The last row and column are for no segment.
    """

    images: Mapping[str, int]
    """Number of images by their state."""
    iou: Floats
    """Intersections over union of the kept segments, by label."""
    segments: Ints
    """Segments by both labels: kept on the diagonal, lost in the last column."""
    pixels: Ints
    """Pixels by both labels."""

    @classmethod
    def nothing(cls, *, num_labels: int) -> "Sums":
        """Returns the sums over no image."""
        shape = (num_labels + 1, num_labels + 1)
        return cls(
            images={},
            iou=np.zeros(num_labels),
            segments=np.zeros(shape, np.int64),
            pixels=np.zeros(shape, np.int64),
        )

    def plus(self, other: "Sums") -> "Sums":
        """Returns the sums over the images of both."""
        states = [*self.images, *(state for state in other.images if state not in self.images)]
        return Sums(
            images={s: self.images.get(s, 0) + other.images.get(s, 0) for s in states},
            iou=self.iou + other.iou,
            segments=self.segments + other.segments,
            pixels=self.pixels + other.pixels,
        )

    @property
    def quality(self) -> Floats:
        """Returns the PQ of each label over all images; nan where neither table has it."""
        halves = (self.segments.sum(0) + self.segments.sum(1))[:-1] / 2
        return np.where(halves > 0, self.iou / np.maximum(halves, 0.5), np.nan)

    @property
    def pq(self) -> float | None:
        """Returns the mean PQ over the labels that occur; None without any segment."""
        known = self.quality[~np.isnan(self.quality)]
        return float(known.mean()) if len(known) else None

    @property
    def area_same_label(self) -> float | None:
        """Returns the share of the pixels with a segment in either table that kept their label."""
        total = int(self.pixels.sum())
        return int(np.trace(self.pixels)) / total if total else None

    @property
    def kept(self) -> int:
        return int(np.trace(self.segments))

    @property
    def lost(self) -> int:
        return int(self.segments[:, -1].sum())

    @property
    def gained(self) -> int:
        return int(self.segments[-1].sum())

    @property
    def relabelled(self) -> int:
        return int(self.segments[:-1, :-1].sum()) - self.kept

    def changes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the pairs of labels that differ, with segments and pixels; most pixels first.

        A label of None stands for no segment.
        """
        known = [*names, None]
        a, b = np.nonzero((self.pixels > 0) | (self.segments > 0))
        found = [
            {
                "from": known[one],
                "to": known[two],
                "segments": int(self.segments[one, two]),
                "pixels": int(self.pixels[one, two]),
            }
            for one, two in zip(a.tolist(), b.tolist(), strict=True)
            if one != two
        ]
        return sorted(found, key=lambda each: (-each["pixels"], str(each["from"]), str(each["to"])))

    def labels(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the counts of each label that occurs; most pixels first."""
        found = []
        for label, name in enumerate(names):
            row, column = self.segments[label], self.segments[:, label]
            kept, lost, gained = int(row[label]), int(row[-1]), int(column[-1])
            pixels_a, pixels_b = int(self.pixels[label].sum()), int(self.pixels[:, label].sum())
            if not (row.any() or column.any()):
                continue
            found.append(
                {
                    "label": name,
                    "pq": float(self.quality[label]),
                    "segments_a": int(row.sum()),
                    "segments_b": int(column.sum()),
                    "kept": kept,
                    "lost": lost,
                    "gained": gained,
                    "relabelled_from": int(row[:-1].sum()) - kept,
                    "relabelled_to": int(column[:-1].sum()) - kept,
                    "pixels_a": pixels_a,
                    "pixels_b": pixels_b,
                }
            )
        return sorted(found, key=lambda each: (-each["pixels_a"] - each["pixels_b"], each["label"]))

"""Counts broken rules, with the first examples of each."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.reviews.rules import REVIEW_RULES

RULES = {
    "file": "every file can be read and has the table's columns",
    "metadata": "a file names its unit, and the model, settings and labels of the table",
    "pair": "a unit that is done has both of its files",
    "compacted": "compacted files hold the rows of the units' own files, and of each unit",
    "position": "images are in order: position 0, 1, 2, …, and the unit_id is that of the file",
    "status": "an image is ok, with its size, or in error, with class and message",
    "num_segments": "num_segments is the number of the image's rows in `segments`",
    "coverage": "coverage is the sum of the areas over the image's pixels",
    "mean_score": "mean_score is the mean of the segments' scores, and null without any",
    "belongs": "a segment belongs to an image of its unit that is ok",
    "order": "segments are sorted by their images' position, then segment_id",
    "segment_id": "segment_id counts 1, 2, … within an image",
    "size": "a segment's height and width are those of its image",
    "label": "label and is_thing are what the table's labels and task say of label_id",
    "score": "a score is in [0, 1]",
    "second_label": "a second label is another label of the table with its score, or null with it",
    "rle": "an rle decodes to a mask of its image's size",
    "area": "the area is that of the rle's mask, and not 0",
    "box": "the box is that of the rle's mask",
    "overlap": "segments of one image do not overlap (panoptic, semantic)",
    "twice": "an image (image_id and etag) has one row for each time that it was planned",
    "planned": "a unit that is done is in a plan in force",
    "missing": "a unit that is done has all images of the sources that are planned for it",
    "source": "an image comes from a source of its unit, as that was when it was planned",
    "report": "a report's counts are those of its plan and of the rows",
    **REVIEW_RULES,
}
"""The rules by name, each a sentence that must hold."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A file, image or segment that breaks a rule."""

    place: str
    """File, and image and segment if the rule is about one."""
    found: str


@dataclass(kw_only=True)
class Findings:
    """Counts of broken rules, and the first examples of each."""

    most_examples: int
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, rule: str, place: str, found: str, *, count: int = 1) -> None:
        """Counts a rule as broken `count` times, with one example."""
        assert rule in RULES, rule
        self.counts[rule] = self.counts.get(rule, 0) + count
        shown = self.examples.setdefault(rule, [])
        if len(shown) < self.most_examples:
            shown.append(Example(place=place, found=found))

    def add_rows(
        self,
        rule: str,
        is_broken: npt.NDArray[np.bool_],
        *,
        place: Callable[[int], str],
        found: Callable[[int], str],
    ) -> None:
        """Counts the rule as broken in these rows, and describes only the first examples."""
        rows = np.flatnonzero(is_broken)
        for row in rows[: self.most_examples].tolist():
            self.add(rule, place(row), found(row))
        if len(rows) > self.most_examples:
            self.counts[rule] += len(rows) - self.most_examples

    def join(self, others: Iterable["Findings"]) -> None:
        """Adds the findings of others, in their order."""
        for other in others:
            for rule, count in other.counts.items():
                self.counts[rule] = self.counts.get(rule, 0) + count
                shown = self.examples.setdefault(rule, [])
                shown += other.examples[rule][: self.most_examples - len(shown)]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

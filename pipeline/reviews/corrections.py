"""Counts how often reviewers corrected the model, by the label that the model had given."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.reviews.log import ReviewLog
from pipeline.reviews.reviewed import StaleReview, laid_revisions
from pipeline.reviews.revision import Revision
from pipeline.table.latest import rows_of_images
from pipeline.table.store import TableStore

_IMAGES_AT_ONCE = 500


@dataclass(kw_only=True)
class LabelCorrections:
    """Counts of what became of the model's segments of one label, in settled images."""

    label: str
    segments: int = 0
    """Of the model, in images that a reviewer accepted or corrected."""
    kept: int = 0
    relabelled: int = 0
    reshaped: int = 0
    """Other pixels under the same label."""
    removed: int = 0
    added: int = 0
    """Segments of this label that the model had not found."""
    new_labels: Counter[str] = field(default_factory=Counter)
    """The labels that reviewers gave in its place."""

    @property
    def corrected(self) -> int:
        return self.segments - self.kept


@dataclass(kw_only=True)
class Corrections:
    """Counts over the reviewed images of a table."""

    images: dict[str, int] = field(default_factory=dict)
    """Numbers of images by review status, and `stale`."""
    labels: dict[str, LabelCorrections] = field(default_factory=dict)

    @property
    def num_reviewed(self) -> int:
        return sum(number for status, number in self.images.items() if status != "stale")

    def of_label(self, label: str) -> LabelCorrections:
        return self.labels.setdefault(label, LabelCorrections(label=label))

    def by_corrections(self) -> list[LabelCorrections]:
        """Returns the labels, the most often corrected first."""
        return sorted(
            self.labels.values(), key=lambda each: (-each.corrected - each.added, each.label)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts for a report in JSON."""
        names = ("segments", "kept", "relabelled", "reshaped", "removed", "added")
        return {
            "images": dict(sorted(self.images.items())),
            "labels": {
                each.label: {
                    **{name: getattr(each, name) for name in names},
                    "new_labels": dict(each.new_labels.most_common()),
                }
                for each in self.by_corrections()
            },
        }


def count_corrections(table: TableStore, log: ReviewLog) -> Corrections | None:
    """Compares settled images with the model's rows; None where there are no reviews.

    Reads the units that hold reviewed images, and the identifiers of all images.
    """
    if not log.listing().numbers():
        return None
    found = Corrections()
    stale: list[StaleReview] = []
    settled = _settled(laid_revisions(table, log, on_stale=stale.append), found)
    while revisions := list(islice(settled, _IMAGES_AT_ONCE)):
        _, rows = rows_of_images(table, [revision.image_id for revision in revisions])
        model: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            model.setdefault(row["image_id"], []).append(row)
        for revision in revisions:
            _compare(model.get(revision.image_id, []), revision, found)
    if stale:
        found.images["stale"] = len(stale)
    return found


def _settled(revisions: Iterator[Revision], found: Corrections) -> Iterator[Revision]:
    for revision in revisions:
        found.images[revision.status] = found.images.get(revision.status, 0) + 1
        if revision.is_settled:
            yield revision


def _compare(model: Sequence[Mapping[str, Any]], revision: Revision, found: Corrections) -> None:
    """Counts what became of the model's segments of one image."""
    of_model = {row["segment_id"]: row for row in model}
    left = set(of_model)
    for segment in revision.segments:
        # A part of a segment that was split is an addition, but for the first.
        old = of_model[segment.origin_segment_id] if segment.origin_segment_id in left else None
        if old is None:
            found.of_label(segment.label).added += 1
            continue
        left.discard(old["segment_id"])
        counts = found.of_label(old["label"])
        counts.segments += 1
        if segment.label != old["label"]:
            counts.relabelled += 1
            counts.new_labels[segment.label] += 1
        elif segment.rle != old["rle"]:
            counts.reshaped += 1
        else:
            counts.kept += 1
    for number in left:
        counts = found.of_label(of_model[number]["label"])
        counts.segments += 1
        counts.removed += 1

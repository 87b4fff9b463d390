"""Knows the newest revision of each image, for the grid: status, reviewer, time and labels.

Revisions are read in the background; those that other servers save are found by listing again.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.review_page.index import Range, TableIndex
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import STATUSES, Revision, review_key

UNREVIEWED, STALE = "unreviewed", "stale"
STATES = (UNREVIEWED, *STATUSES, STALE)
"""What an image can be filtered by: `stale` where its photograph has changed since its review."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ReviewedImage:
    """The newest revision of an image, as the grid shows it."""

    revision: int
    status: str
    reviewer: str
    saved_at: str
    is_stale: bool
    labels: npt.NDArray[np.int32]
    """The label of each segment, by the labels of this table."""
    scores: npt.NDArray[np.float32]


class ReviewedState:
    """The newest revisions of a table's images; may be used by several threads."""

    def __init__(self, index: TableIndex, log: ReviewLog, *, labels: tuple[str, ...]) -> None:
        self._index, self._log = index, log
        self._label_ids = {name: label_id for label_id, name in enumerate(labels)}
        self._images: dict[int, ReviewedImage] = {}
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()
        self.is_loaded = False
        """True once the newest revision of every image was read."""

    def refresh(self) -> None:
        """Reads the newest revisions that are not known yet."""
        listing = self._log.listing()
        wanted = [each for each in listing.newest() if self._known.get(each[0], 0) < each[1]]
        for revision in self._log.revisions(wanted, listing=listing):
            self.add(revision)
        self.is_loaded = True

    def add(self, revision: Revision) -> None:
        """Adds a revision, unless a newer one of its image is known."""
        place = self._index.place(revision.image_id)
        key = review_key(revision.image_id)
        with self._lock:
            if self._known.get(key, 0) >= revision.revision:
                return
            self._known[key] = revision.revision
            if place is not None:
                etag = self._index.row(place)["etag"]
                self._images[place] = self._summary(revision, is_stale=etag != revision.base_etag)

    def of(self, place: int) -> ReviewedImage | None:
        """Returns what is known of an image; None where nobody has reviewed it."""
        return self._images.get(place)

    def counts(self) -> dict[str, int]:
        """Counts the images by state."""
        with self._lock:
            found = Counter(map(_state, self._images.values()))
        reviewed = sum(found.values())
        return {UNREVIEWED: len(self._index) - reviewed, **{s: found[s] for s in STATES[1:]}}

    def reviewers(self) -> list[str]:
        """Returns the names of all reviewers of newest revisions."""
        with self._lock:
            return sorted({each.reviewer for each in self._images.values()})

    def has_state(self, states: Iterable[str]) -> Mask:
        """Returns True for images in one of the states."""
        wanted = set(states)
        result = np.full(len(self._index), UNREVIEWED in wanted)
        with self._lock:
            for place, image in self._images.items():
                result[place] = _state(image) in wanted
        return result

    def has_reviewer(self, reviewer: str) -> Mask:
        """Returns True for images whose newest revision is of that reviewer."""
        result = np.zeros(len(self._index), np.bool_)
        with self._lock:
            for place, image in self._images.items():
                result[place] = image.reviewer == reviewer
        return result

    def saved_at(self) -> npt.NDArray[np.float64]:
        """Returns the order of saving, nan for images without a review."""
        result = np.full(len(self._index), np.nan)
        with self._lock:
            ordered = sorted(self._images.items(), key=lambda each: each[1].saved_at)
        for number, (place, _) in enumerate(ordered):
            result[place] = number
        return result

    def with_label(self, found: Mask, label_id: int, scores: Range) -> Mask:
        """Corrects which images have a segment of a label, where a person changed their labels."""
        result = found.copy()
        with self._lock:
            for place, image in self._images.items():
                if not image.is_stale:
                    is_its = image.labels == label_id
                    if not scores.is_everything:
                        is_its &= scores.holds(image.scores)
                    result[place] = is_its.any()
        return result

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Counts the segments by label: the newest revision's, else the model's."""
        counts = self._index.segments.counts.copy()
        with self._lock:
            laid_over = {p: image for p, image in self._images.items() if not image.is_stale}
        if laid_over:
            is_over = np.zeros(len(self._index), np.bool_)
            is_over[list(laid_over)] = True
            counts -= self._index.segments.counts_in(is_over)
            labels = np.concatenate([image.labels for image in laid_over.values()])
            counts += np.bincount(labels[labels >= 0], minlength=len(counts))
        return counts

    def _summary(self, revision: Revision, *, is_stale: bool) -> ReviewedImage:
        segments = revision.segments
        return ReviewedImage(
            revision=revision.revision,
            status=revision.status,
            reviewer=revision.reviewer,
            saved_at=revision.created_at.isoformat(),
            is_stale=is_stale,
            labels=np.array([self._label_ids.get(each.label, -1) for each in segments], np.int32),
            scores=np.array(
                [np.nan if each.score is None else each.score for each in segments], np.float32
            ),
        )


def _state(image: ReviewedImage) -> str:
    return STALE if image.is_stale else image.status

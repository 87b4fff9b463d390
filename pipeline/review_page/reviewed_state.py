"""Knows the newest revision of each image, for the grid: status, reviewer, time and labels.

Revisions are read in the background; those that other servers save are found by listing again.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.review_page.index import ScoreRange, TableIndex
from pipeline.reviews.log import DamagedRevision, ReviewLog
from pipeline.reviews.reviewed import reason_stale, with_labels_of
from pipeline.reviews.revision import STATUSES, Revision, review_key
from pipeline.table.store import TableSpec

UNREVIEWED, STALE = "unreviewed", "stale"
STATES = (UNREVIEWED, *STATUSES, STALE)
"""What an image can be filtered by: `stale` where its review does not count any more."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The newest revision of an image as it is kept, whether the table has the image or not."""

    revision: Revision
    """Without its segments."""
    has_its_labels: bool
    """True if the table has all labels of its segments."""
    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


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

    def __init__(self, index: TableIndex, log: ReviewLog, *, spec: TableSpec) -> None:
        self._index, self._log, self._spec = index, log, spec
        self._images: dict[int, ReviewedImage] = {}
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self.is_loaded = False
        """True once the newest revision of every image was read."""

    def refresh(self) -> None:
        """Reads the newest revisions that are not known yet.

        Raises:
            DamagedRevision: one cannot be read; all others are known.
        """
        listing = self._log.listing()
        wanted = [each for each in listing.newest() if self._number(each[0]) < each[1]]
        damage: DamagedRevision | None = None
        try:
            for revision in self._log.revisions(wanted, listing=listing):
                self.add(revision)
        except DamagedRevision:
            # One by one, so that a damaged file hides no other.
            for each in wanted:
                try:
                    for revision in self._log.revisions([each], listing=listing):
                        self.add(revision)
                except DamagedRevision as error:
                    damage = error
        self.is_loaded = True
        if damage is not None:
            raise damage

    def add(self, revision: Revision) -> None:
        """Adds a revision, unless a newer one of its image is known."""
        has_its_labels = {each.label for each in revision.segments} <= {*self._spec.labels}
        segments = with_labels_of(self._spec, revision).segments if has_its_labels else ()
        known = _Known(
            revision=revision.replace(segments=(), operations=()),
            has_its_labels=has_its_labels,
            labels=np.array([each.label_id for each in segments], np.int32),
            scores=np.array(
                [np.nan if each.score is None else each.score for each in segments], np.float32
            ),
        )
        self._take(review_key(revision.image_id), known)

    def take(self, other: "ReviewedState") -> None:
        """Takes over the revisions that are known of another state of this table."""
        with other._lock:
            known = dict(other._known)
        for key, each in known.items():
            self._take(key, each)
        self.is_loaded |= other.is_loaded

    def _take(self, key: str, known: _Known) -> None:
        place = self._index.place(known.revision.image_id)
        with self._lock:
            if self._number(key) >= known.revision.revision:
                return
            self._known[key] = known
            if place is not None:
                row = {**self._index.row(place), "status": "ok"}
                is_other = reason_stale(known.revision, row, spec=self._spec) is not None
                is_stale = is_other or not known.has_its_labels
                self._images[place] = _summary(known, is_stale=is_stale)

    def _number(self, key: str) -> int:
        known = self._known.get(key)
        return 0 if known is None else known.revision.revision

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

    def with_label(self, found: Mask, label_id: int, scores: ScoreRange) -> Mask:
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
            counts += np.bincount(labels, minlength=len(counts))
        return counts


def _summary(known: _Known, *, is_stale: bool) -> ReviewedImage:
    revision = known.revision
    return ReviewedImage(
        revision=revision.revision,
        status=revision.status,
        reviewer=revision.reviewer,
        saved_at=revision.created_at.isoformat(),
        is_stale=is_stale,
        labels=known.labels,
        scores=known.scores,
    )


def _state(image: ReviewedImage) -> str:
    return STALE if image.is_stale else image.status

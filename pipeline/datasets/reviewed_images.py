"""Chooses the images of a table to learn from or to judge by: those that a person has settled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.reviews.log import LogListing, ReviewLog
from pipeline.reviews.reviewed import StaleReview, laid_revisions
from pipeline.reviews.revision import review_key
from pipeline.runtime.wording import count
from pipeline.storage import File, join
from pipeline.table.store import TableStore

Reviewed = Literal["only", "first", "ignore"]

Revisions = Mapping[str, int | None]
"""The revision of each image that is taken, by image_id; None for the model's rows."""


@dataclass(frozen=True, kw_only=True)
class RevisionPlace:
    """The file that holds a revision, and the revision's number."""

    file: File
    revision: int


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """The images to take, each with its revision, None for the model's rows."""

    places: Mapping[str, RevisionPlace | None]
    notes: tuple[str, ...] = ()
    """Lines for people on what was taken and left out."""


def choose_reviewed(
    image_ids: Sequence[str],
    *,
    table: TableStore,
    reviewed: Reviewed | None,
    reviews: str | None,
    revisions: Revisions | None,
) -> ChosenImages:
    """Chooses among images of a table without error.

    Args:
        reviewed: as in `DatasetForm`; None takes reviewed images only where there are reviews.
        revisions: what was chosen before, to choose the same again.

    Raises:
        LabelError: no image is left, or there are no reviews where they were asked for.
    """
    log = ReviewLog.of_table(table.uri, reviews=reviews, storage=table.storage)
    every = ChosenImages(places=dict.fromkeys(image_ids))
    if reviewed == "ignore":
        return every
    listing = log.listing()
    if revisions is not None:
        return _chosen_before(revisions, listing=listing, log=log)
    if not listing.numbers():
        if reviewed is None and reviews is None:
            return every
        raise LabelError(
            f"there are no reviews at {log.uri}; review some images, name the folder of the "
            "reviews by --reviews, or leave out --reviewed"
        )
    stale: list[StaleReview] = []
    left_out: Counter[str] = Counter()
    places: dict[str, RevisionPlace | None] = {}
    unsettled = set()
    for revision in laid_revisions(table, log, on_stale=stale.append):
        if revision.is_settled:
            places[revision.image_id] = _place_of(
                revision.image_id, revision.revision, listing=listing, log=log
            )
        else:
            unsettled.add(revision.image_id)
            left_out[revision.status] += 1
    num_reviewed = len(places)
    if reviewed == "first":
        places = {
            image_id: places.get(image_id) for image_id in image_ids if image_id not in unsettled
        }
    if not places:
        raise LabelError(
            f"no image of {table.uri} was accepted or corrected by a reviewer, of "
            f"{count(len(listing.numbers()), 'image')} with a review; set --reviewed ignore to "
            "take the model's rows"
        )
    if stale:
        left_out["stale"] = len(stale)
    others = ", ".join(f"{number:,} {status}" for status, number in sorted(left_out.items()))
    note = f"{num_reviewed:,} of {count(len(image_ids), 'image')} of {table.uri} are reviewed"
    if reviewed == "first":
        note += f", {len(places) - num_reviewed:,} are taken as the model labelled them"
    return ChosenImages(
        places=places, notes=(note + (f"; reviews left out: {others}" if others else ""),)
    )


def revisions_of(dataset: LabelledImages) -> Revisions | None:
    """Returns what was chosen of a segment table, None for another data set."""
    if "revision" not in dataset.rows.schema.names:
        return None
    ids, numbers = (dataset.rows[name].to_pylist() for name in ("image_id", "revision"))
    return dict(zip(ids, numbers, strict=True))


def _chosen_before(revisions: Revisions, *, listing: LogListing, log: ReviewLog) -> ChosenImages:
    places = {
        image_id: None if number is None else _place_of(image_id, number, listing=listing, log=log)
        for image_id, number in revisions.items()
    }
    return ChosenImages(places=places)


def _place_of(image_id: str, number: int, *, listing: LogListing, log: ReviewLog) -> RevisionPlace:
    """Returns the place of a revision; one that was saved since the listing is looked up."""
    key = review_key(image_id)
    own = listing.own.get(key, {}).get(number)
    file = own or log.storage.file(log.file(image_id, number))
    if file is None:
        joined = log.joined().place(key, number)
        if joined is not None:
            file = log.storage.file(join(log.uri, joined.file.name))
    if file is None:
        raise LabelError(f"revision {number} of {image_id} is gone from {log.uri}; put it back")
    return RevisionPlace(file=file, revision=number)

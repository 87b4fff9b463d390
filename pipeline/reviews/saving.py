"""Saves what a reviewer did, beside what others saved of the same image meanwhile.

Changes of different pixels are joined, and the new revision names both reviewers. Where two
reviewers changed the same, the second one's save is kept as a branch and handed back with the first
one's, for a person to choose. Neither is ever lost.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pipeline.reviews.changes import changes_between, joined_changes
from pipeline.reviews.log import ReviewLog, RevisionTaken
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import SETTLED, MergedRevision, ReviewedSegment, Revision, Status
from pipeline.table.store import TableStore

Base = Callable[[], Sequence[ReviewedSegment]]

_ATTEMPTS = 100


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Two revisions that changed the same; a person chooses, and saves with theirs as parent."""

    theirs: Revision
    """The newest revision of the image."""
    yours: Revision
    """What was to be saved."""
    branch: str
    """Where it is kept."""


def save(log: ReviewLog, revision: Revision, *, base: Base | None = None) -> Revision | Conflict:
    """Saves a revision under the next free number; its own `revision` does not matter.

    The same save twice, as after an answer that was lost, is stored once: the second call returns
    what the first one stored.

    Args:
        base: gives the model's rows, if the caller has them; they are read from the table only if
            the parent is 0 and another reviewer saved meanwhile.

    Returns:
        The revision as stored: with its number, `changed_pixels` where the parent's state is known,
        and the segments of both where the changes of others were joined with it. Else a conflict.

    Raises:
        ValueError: the parent does not exist.
    """
    revision = revision.replace(submission=submission_of(revision))
    for _ in range(_ATTEMPTS):
        numbers = log.numbers(revision.image_id)
        newest = numbers[-1] if numbers else 0
        if not 0 <= revision.parent_revision <= newest:
            raise ValueError(
                f"parent_revision must be a revision of {revision.image_id} or 0, got "
                f"{revision.parent_revision}; the newest is {newest}"
            )
        later = [
            log.read(revision.image_id, number)
            for number in range(revision.parent_revision + 1, newest + 1)
        ]
        for each in later:
            if each.submission == revision.submission:
                return each
        # Reviews of another version of the photograph say nothing about this one.
        unseen = [each for each in later if each.base_etag == revision.base_etag]
        candidate = _candidate(log, revision, unseen=unseen, base=base)
        if candidate is None:
            return Conflict(theirs=unseen[-1], yours=revision, branch=log.keep_branch(revision))
        candidate = candidate.replace(revision=newest + 1)
        try:
            log.append(candidate)
        except RevisionTaken:
            continue
        return candidate
    raise RevisionTaken(f"{_ATTEMPTS} others saved {revision.image_id} at the same time")


def submission_of(revision: Revision) -> str:
    """Returns a digest of what the reviewer sent, whenever and under whatever number."""
    left_out = {"revision", "created_at", "seconds", "changed_pixels", "merged_with", "submission"}
    sent = {name: value for name, value in asdict(revision).items() if name not in left_out}
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()


def _candidate(
    log: ReviewLog, revision: Revision, *, unseen: Sequence[Revision], base: Base | None
) -> Revision | None:
    """Returns the revision to add, joined with the unseen ones; None if that cannot be done."""
    size = {"height": revision.height, "width": revision.width}
    if not unseen:
        if revision.parent_revision == 0 and base is None:
            return revision
        before = _parent_state(log, revision, base=base)
        changed = changes_between(before, revision.segments, **size)
        return revision.replace(changed_pixels=changed.num_pixels)
    theirs = unseen[-1]
    status = _joined_status(theirs.status, revision.status)
    if status is None or (theirs.height, theirs.width) != (revision.height, revision.width):
        return None
    before = _parent_state(log, revision, base=base)
    segments = joined_changes(before, theirs.segments, revision.segments, **size)
    if segments is None:
        return None
    return revision.replace(
        parent_revision=theirs.revision,
        status=status,
        segments=segments,
        changed_pixels=changes_between(theirs.segments, segments, **size).num_pixels,
        comment="\n".join(dict.fromkeys(filter(None, (theirs.comment, revision.comment)))) or None,
        merged_with=tuple(
            MergedRevision(revision=each.revision, reviewer=each.reviewer) for each in unseen
        ),
    )


def _parent_state(
    log: ReviewLog, revision: Revision, *, base: Base | None
) -> Sequence[ReviewedSegment]:
    if revision.parent_revision:
        return log.read(revision.image_id, revision.parent_revision).segments
    if base is not None:
        return base()
    if log.table is None:
        raise ValueError(
            f"to join two reviews of {revision.image_id}, the model's rows are needed, and the "
            f"table of {log.uri} is not known; give the table"
        )
    return model_state(TableStore(log.table, log.storage), revision.image_id).segments


def _joined_status(theirs: Status, mine: Status) -> Status | None:
    """Returns the status of both together; None where they say different things of the image."""
    if theirs == mine:
        return mine
    return "corrected" if theirs in SETTLED and mine in SETTLED else None

"""Checks the reviews of a table: numbers, parents, masks and labels of every revision.

One revision after the other is in memory, and of the table the etag and size of reviewed images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.maintenance.verify.findings import Findings
from pipeline.reviews.compacted import JoinedFile, stream_joined
from pipeline.reviews.log import BRANCHES, LOG, DamagedRevision, LogListing, ReviewLog
from pipeline.reviews.reviewed import current_images, reason_stale
from pipeline.reviews.revision import Revision, review_key, revision_of
from pipeline.reviews.rules import broken_rules
from pipeline.runtime.threads import map_ahead
from pipeline.storage import below, join
from pipeline.table.store import TableSpec, TableStore

_READERS = 8


@dataclass(frozen=True, kw_only=True)
class CheckedReviews:
    """The amount that was checked, and sentences on what is no fault."""

    num_revisions: int = 0
    notices: tuple[str, ...] = ()


def check_reviews(
    table: TableStore, log: ReviewLog, *, spec: TableSpec, findings: Findings
) -> CheckedReviews:
    """Checks all revisions that there are at this moment; reviewers can work at the same time."""
    listing = log.listing()
    numbers = listing.numbers()
    branches = [
        file.uri
        for file in log.storage.files(join(log.uri, BRANCHES))
        if file.uri.endswith(".parquet") and "/." not in file.uri
    ]
    if not numbers and not branches:
        return CheckedReviews()
    for key, found in numbers.items():
        if missing := {*range(1, max(found) + 1)} - found:
            seen = f"{min(missing):08} is missing, {max(found):08} is there"
            findings.add("review_number", f"{LOG}/{key}", seen)
    current = current_images(table, numbers)
    stale: list[str] = []
    for place, key, number, revision in _read_all(log, listing, findings=findings):
        if (review_key(revision.image_id), revision.revision) != (key, number):
            seen = f"revision {revision.revision} of {revision.image_id}"
            findings.add("review_number", place, f"it holds {seen}")
        parent = revision.parent_revision
        if 0 < parent < number and parent not in numbers[key]:
            findings.add("review_parent", place, f"there is no revision {parent}")
        for rule, broken in broken_rules(revision, spec=spec):
            findings.add(rule, place, broken)
        row = current.get(revision.image_id)
        if row is not None and row["etag"] == revision.base_etag and row["height"] is not None:
            sizes = (row["height"], row["width"]), (revision.height, revision.width)
            if sizes[0] != sizes[1]:
                seen = f"it is of {sizes[1]}, the image of {sizes[0]} (height, width)"
                findings.add("review_image", place, seen)
        if number == max(numbers[key]) and (reason := reason_stale(revision, row, spec=spec)):
            stale.append(f"{revision.image_id}: {reason}")
    for uri in branches:
        try:
            log.read_own(uri)
        except DamagedRevision as damage:
            findings.add("review_file", below(uri, root=log.uri), str(damage))
    return CheckedReviews(
        num_revisions=sum(map(len, numbers.values())),
        notices=tuple(_notices(stale, branches)),
    )


_Found = tuple[str, str, int, Revision]
"""Place, image key and number by its name, and what is there."""


def _read_all(log: ReviewLog, listing: LogListing, *, findings: Findings) -> Iterator[_Found]:
    """Yields every revision once; compares those of joined files with the log."""
    own = [(key, number) for key, files in listing.own.items() for number in files]

    def read(entry: tuple[str, int]) -> tuple[tuple[str, int], Revision | DamagedRevision | None]:
        try:
            return entry, log.read_own(log.own_file(*entry))
        except DamagedRevision as damage:
            return entry, damage
        except FileNotFoundError:  # removed by `compact`; the joined file is read below
            return entry, None

    digests: dict[tuple[str, int], int] = {}
    for (key, number), revision in map_ahead(read, own, num_threads=_READERS):
        place = f"{LOG}/{key}/{number:08}.parquet"
        if isinstance(revision, DamagedRevision):
            findings.add("review_file", place, str(revision))
        elif revision is not None:
            yield place, key, number, revision
            if listing.joined.place(key, number) is not None:
                digests[key, number] = hash(revision)
    for file in listing.joined.pointer.files:
        yield from _joined(log, file, digests=digests, findings=findings)


def _joined(
    log: ReviewLog,
    file: JoinedFile,
    *,
    digests: dict[tuple[str, int], int],
    findings: Findings,
) -> Iterator[_Found]:
    """Yields the revisions of a joined file that are not in the log; compares the others."""
    rows = 0
    try:
        for batch in stream_joined(log.uri, file, storage=log.storage):
            for revision in map(revision_of, batch.to_pylist()):
                rows += 1
                entry = review_key(revision.image_id), revision.revision
                if entry not in digests:
                    yield f"{file.name}, image {revision.image_id}", *entry, revision
                elif digests[entry] != hash(revision):
                    found = f"revision {revision.revision} of {revision.image_id} is another"
                    findings.add("review_joined", file.name, found)
    except (*PARQUET_ERRORS, TypeError) as error:
        if isinstance(error, OSError):
            raise_if_from_storage(error)
        findings.add("review_file", file.name, str(error))
        return
    if rows != file.num_revisions:
        found = f"it has {rows} revisions, the pointer says {file.num_revisions}"
        findings.add("review_joined", file.name, found)


def _notices(stale: list[str], branches: list[str]) -> Iterator[str]:
    if stale:
        yield (
            f"reviews that do not count for the table as it is now: {len(stale):,}, for example "
            f"{min(stale)}"
        )
    if branches:
        yield (
            f"saves that conflicted with another's and were kept: {len(branches):,}, for example "
            f"{min(branches)}"
        )

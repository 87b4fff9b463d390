"""Reads a table with the newest revision of each image laid over the model's rows.

`pipeline.table.latest` reads what the model says; this reads what is known after review. A revision
counts while the photograph is the one that the reviewer saw, whichever model made the table. Of an
image that its reviewer called unusable, readers get no segment, and `unusable` for its status. A
flagged image gives what its revision holds, and `review_status` says so.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import ReviewedSegment, Revision, review_key
from pipeline.reviews.rules import is_thing
from pipeline.storage import Storage
from pipeline.table.latest import latest_images, latest_segments
from pipeline.table.store import IMAGES, SEGMENTS, TableSpec, TableStore

_ORIGIN = pa.field("origin", pa.string())

REVIEWED_SEGMENTS = SEGMENTS.append(_ORIGIN)
"""As `SEGMENTS`, and whether the model or a human made the segment."""

REVIEWED_IMAGES = pa.schema(
    [
        *IMAGES,
        _ORIGIN,
        ("review_status", pa.string()),
        ("revision", pa.int32()),
        ("reviewer", pa.string()),
    ]
)
"""As `IMAGES`, with counts of the reviewed segments. The last three are null without a review;
`origin` is `human` where a person corrected the image."""

_BATCH_REVISIONS = 64
_CURRENT = ["image_id", "etag", "status", "height", "width"]


@dataclass(frozen=True, kw_only=True)
class StaleReview:
    """The newest revision of an image, which does not count for a table, and why."""

    image_id: str
    revision: int
    reviewer: str
    base_etag: str
    reason: str


OnStale = Callable[[StaleReview], object]


def reviewed_segments(
    table: str,
    reviews: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
    on_stale: OnStale = lambda stale: None,
) -> pa.RecordBatchReader:
    """Reads the reviewed segments of each image, those of the model where there is no review.

    Reviewed images come first. `columns` are some of `REVIEWED_SEGMENTS`.

    Args:
        reviews: folder of the reviews, `TABLE/_reviews` if None.
        on_stale: called for each review that does not count.
    """
    store, log = _opened(table, reviews, storage=storage)
    schema = _selected(REVIEWED_SEGMENTS, columns)
    model = latest_segments(
        store.uri, columns=_model_columns(schema, SEGMENTS), storage=store.storage
    )

    def batches() -> Iterator[pa.RecordBatch]:
        reviewed: set[str] = set()

        def rows() -> Iterator[list[dict[str, Any]]]:
            for revision in laid_revisions(store, log, on_stale=on_stale):
                reviewed.add(revision.image_id)
                yield _segment_rows(revision)

        yield from _batches(rows(), schema=schema)
        for batch in model:
            yield _laid_under(batch, reviewed, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def reviewed_images(
    table: str,
    reviews: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    storage: Storage | None = None,
    on_stale: OnStale = lambda stale: None,
) -> pa.RecordBatchReader:
    """Reads the row of each image with the counts of its reviewed segments.

    `columns` are some of `REVIEWED_IMAGES`; the rest is as in `segments`.
    """
    store, log = _opened(table, reviews, storage=storage)
    schema = _selected(REVIEWED_IMAGES, columns)
    model = latest_images(store.uri, storage=store.storage)

    def batches() -> Iterator[pa.RecordBatch]:
        changes = {
            revision.image_id: _image_changes(revision)
            for revision in laid_revisions(store, log, on_stale=on_stale)
        }
        for batch in model:
            yield _changed(batch, changes).select(schema.names)

    return pa.RecordBatchReader.from_batches(schema, batches())


def stale_reviews(
    table: str, reviews: str | None = None, *, storage: Storage | None = None
) -> list[StaleReview]:
    """Lists the images whose newest revision does not count, with the reason."""
    store, log = _opened(table, reviews, storage=storage)
    found: list[StaleReview] = []
    for _ in laid_revisions(store, log, on_stale=found.append):
        pass
    return found


def laid_revisions(table: TableStore, log: ReviewLog, *, on_stale: OnStale) -> Iterator[Revision]:
    """Reads the newest revision of each image of the table, if it counts.

    Labels have the ids of this table, found by name where the review was of another one.
    """
    spec = TableSpec.of(table.existing_spec())
    listing = log.listing()
    newest = listing.newest()
    current = current_images(table, (key for key, _ in newest)) if newest else {}
    for revision in log.revisions(newest, listing=listing):
        row = current.get(revision.image_id)
        reason = reason_stale(revision, row, spec=spec)
        if reason is None:
            yield with_labels_of(spec, revision)
            continue
        on_stale(
            StaleReview(
                image_id=revision.image_id,
                revision=revision.revision,
                reviewer=revision.reviewer,
                base_etag=revision.base_etag,
                reason=reason,
            )
        )


def numbered(revision: Revision) -> Iterator[tuple[int, ReviewedSegment]]:
    """Yields the segments that readers get, with the ids 1, 2, … that rows of a table have."""
    if revision.status != "unusable":
        yield from enumerate(revision.segments, start=1)


def _opened(
    table: str, reviews: str | None, *, storage: Storage | None
) -> tuple[TableStore, ReviewLog]:
    store = TableStore(table, storage or Storage().with_environment())
    return store, ReviewLog.of_table(store.uri, reviews=reviews, storage=store.storage)


def current_images(table: TableStore, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the latest rows of the images with these keys, by image_id."""
    wanted = set(keys)
    found = {}
    for batch in latest_images(table.uri, columns=_CURRENT, storage=table.storage):
        is_wanted = [review_key(image_id) in wanted for image_id in batch["image_id"].to_pylist()]
        for row in batch.filter(pa.array(is_wanted, pa.bool_())).to_pylist():
            found[row["image_id"]] = row
    return found


def reason_stale(revision: Revision, row: dict[str, Any] | None, *, spec: TableSpec) -> str | None:
    """Returns why a revision does not count; None if it does."""
    if row is None:
        return "the image is not in the table"
    if row["etag"] != revision.base_etag:
        return f"the photograph has changed: its etag was {revision.base_etag}, is {row['etag']}"
    if row["status"] != "ok":
        return "the image is in error now"
    if (row["height"], row["width"]) != (revision.height, revision.width):
        return (
            f"the image was {revision.height} × {revision.width} (height × width), is "
            f"{row['height']} × {row['width']}"
        )
    unknown = {segment.label for segment in revision.segments} - {*spec.labels}
    if unknown:
        return f"the table has no label {', '.join(sorted(unknown))}"
    return None


def with_labels_of(spec: TableSpec, revision: Revision) -> Revision:
    """Returns a revision with the label ids of a table that has all its labels."""
    if revision.table_fingerprint == spec.fingerprint:
        return revision
    ids = {label: number for number, label in reversed([*enumerate(spec.labels)])}
    return revision.replace(
        segments=tuple(
            dataclasses.replace(
                segment,
                label_id=ids[segment.label],
                is_thing=is_thing(spec, ids[segment.label]),
            )
            for segment in revision.segments
        )
    )


def _segment_rows(revision: Revision) -> list[dict[str, Any]]:
    of_image = {
        "image_id": revision.image_id, "height": revision.height, "width": revision.width,
    }  # fmt: skip
    return [
        {**vars(segment), **of_image, "segment_id": number}
        for number, segment in numbered(revision)
    ]


def _image_changes(revision: Revision) -> dict[str, Any]:
    """Returns the columns of an image that its newest revision decides."""
    kept = [segment for _, segment in numbered(revision)]
    scores = [segment.score for segment in kept if segment.score is not None]
    is_usable = revision.status != "unusable"
    return {
        "status": "ok" if is_usable else "unusable",
        "num_segments": len(kept),
        "coverage": _covered(revision, kept) if is_usable else None,
        "mean_score": sum(scores) / len(scores) if scores else None,
        "origin": "human" if revision.status == "corrected" else "model",
        "review_status": revision.status,
        "revision": revision.revision,
        "reviewer": revision.reviewer,
    }


def _changed(batch: pa.RecordBatch, changes: Mapping[str, dict[str, Any]]) -> pa.RecordBatch:
    """Returns the model's rows of images with the changed columns of those that have a review."""
    none = (
        pa.repeat(pa.scalar("model"), len(batch)),
        *(pa.nulls(len(batch), field.type) for field in list(REVIEWED_IMAGES)[-3:]),
    )
    whole = pa.RecordBatch.from_arrays([*batch.columns, *none], schema=REVIEWED_IMAGES)
    if changes.keys().isdisjoint(batch["image_id"].to_pylist()):
        return whole
    rows = [{**row, **changes.get(row["image_id"], {})} for row in whole.to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=REVIEWED_IMAGES)


def _covered(revision: Revision, kept: Sequence[ReviewedSegment]) -> float:
    """Returns the share of pixels in a segment, as rows of the model say it: areas are added."""
    return sum(segment.area for segment in kept) / (revision.height * revision.width)


def _batches(
    rows: Iterable[list[dict[str, Any]]], *, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    waiting: list[dict[str, Any]] = []
    for number, of_image in enumerate(rows, start=1):
        waiting += of_image
        if number % _BATCH_REVISIONS == 0 and waiting:
            yield pa.RecordBatch.from_pylist(waiting, schema=schema)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=schema)


def _laid_under(batch: pa.RecordBatch, reviewed: set[str], *, schema: pa.Schema) -> pa.RecordBatch:
    """Returns the model's rows of images without a review."""
    is_left = [image_id not in reviewed for image_id in batch["image_id"].to_pylist()]
    left = batch.filter(pa.array(is_left, pa.bool_()))
    model = pa.repeat(pa.scalar("model"), len(left))
    columns = [model if name == "origin" else left[name] for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _selected(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns or schema.names])


def _model_columns(schema: pa.Schema, own: pa.Schema) -> list[str]:
    return [*dict.fromkeys(["image_id", *(n for n in schema.names if n in own.names)])]

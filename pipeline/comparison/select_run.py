"""Chooses the images of a table that are worth a look, and writes them as a queue.

    maskformer select TABLE --by unsure --count 500 --output QUEUE.parquet

The queue has a row per image (`queue.QUEUE`), the most worthwhile first. It is a corpus manifest
too: `maskformer label --corpus QUEUE.parquet` labels these images and no others, members of
archives included. The same command again chooses the same images.
"""

import sys
from collections.abc import Iterator

import pyarrow as pa

from pipeline.comparison import candidates
from pipeline.comparison.agreement import AGREEMENT
from pipeline.comparison.common_labels import common_labels
from pipeline.comparison.measuring import measured_tables
from pipeline.comparison.queue import Chosen, queue_rows, write_queue
from pipeline.comparison.settings import SelectSettings
from pipeline.corpora.image_parts import ImagePart, ImageParts
from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.reading import ReadSettings
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import ImageCount, ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.runtime.wording import count, list_some
from pipeline.storage import Storage, join
from pipeline.table.scratch import ScratchDatabase, scratch_database
from pipeline.table.store import IMAGES, TableStore

_OF_PART = ("image_id", "uri", "member", "etag")

# Labels take turns: the best of each come first, then the second of each, and so on.
_CHOSEN = """
    SELECT image_id, label, strength, reason, uri, member, etag FROM (
        SELECT *, row_number() OVER (
            PARTITION BY label ORDER BY strength DESC, md5(? || image_id), image_id
        ) AS turn FROM candidates JOIN images USING (image_id)
    ) WHERE turn <= ? ORDER BY turn, strength DESC, md5(? || image_id), image_id LIMIT ?
"""


def select_images(settings: Settings) -> int:
    """Chooses images and writes the queue; gives 0 done.

    Raises:
        WrongUsage: there is no such table, or no image to choose.
        StorageFault: the storage failed.
    """
    given = settings.of(SelectSettings)
    storage = settings.of(Storage).with_environment()
    with as_wrong_usage():
        chosen = select(TableStore(given.table, storage), settings=given)
    print(f"{count(len(chosen), 'image')} in {storage.absolute(given.output)}")
    return ExitCode.DONE


def select(table: TableStore, *, settings: SelectSettings) -> list[Chosen]:
    """Chooses images and writes the queue; returns them, the most worthwhile first.

    Raises:
        ValueError: there is no such table, or no image to choose.
    """
    table.existing_spec()
    stats = RunStats()
    extent = ImageCount(num_images=table.dataset("images", IMAGES).count_rows())
    with scratch_database() as database:
        reviewed = _reviewed(table, settings)
        with ProgressDisplay(stats, extent, doing="reading"):
            candidates.read_rows(table, database, reviewed=reviewed, on_images=stats.add_images)
        [(num_images,)] = database.rows("SELECT count(*) FROM images")
        print(
            f"choosing among {count(num_images, 'image')}"
            + (f"; {len(reviewed):,} are reviewed already" if reviewed else ""),
            file=sys.stderr,
            flush=True,
        )
        _find(database, table, settings)
        seed, most = str(settings.seed), settings.per_label or settings.count
        chosen = [
            Chosen(
                image_id=image_id, label=label, strength=strength, reasons=(reason,), uri=uri,
                member=member, etag=etag,
            )
            for image_id, label, strength, reason, uri, member, etag in database.rows(
                _CHOSEN, seed, most, seed, settings.count
            )
        ]  # fmt: skip
    if not chosen:
        raise ValueError(
            f"no image of {table.uri} can be chosen by {settings.by}: there is none without a "
            "review that was labelled"
            + (" and differs between the tables" if settings.by == "disagree" else "")
        )
    # Balanced by now; a reviewer begins with the strongest reasons.
    chosen.sort(key=lambda each: -each.strength)
    reading = ReadSettings(key_column=settings.key_column)
    rows = [{name: getattr(c, name) for name in _OF_PART} for c in chosen]
    parts = ImageParts(storage=table.storage, reading=reading).find_all(rows)
    sources = {image_id: part.source for image_id, part in parts if isinstance(part, ImagePart)}
    missing = [c.image_id for c in chosen if c.image_id not in sources]
    if missing:
        print(
            f"{count(len(missing), 'image')} could not be found any more, and no run on the queue "
            f"will label them: {list_some(missing)}",
            file=sys.stderr,
        )
    place = table.storage.absolute(settings.output)
    write_queue(queue_rows(chosen, sources=sources), place, storage=table.storage)
    return chosen


def _find(database: ScratchDatabase, table: TableStore, settings: SelectSettings) -> None:
    if settings.by == "unsure":
        candidates.find_unsure(database)
    elif settings.by == "strange":
        candidates.find_strange(database)
    elif settings.by == "random":
        candidates.find_random(database, seed=settings.seed)
    else:
        candidates.find_disagreeing(database, _agreement(table, settings))


def _reviewed(table: TableStore, settings: SelectSettings) -> dict[str, str]:
    """Returns the etag that was reviewed, by image_id."""
    log = ReviewLog.of_table(table.uri, reviews=settings.reviews, storage=table.storage)
    return {revision.image_id: revision.base_etag for revision in log.latest_revisions()}


def _agreement(table: TableStore, settings: SelectSettings) -> Iterator[pa.RecordBatch]:
    if settings.agreement is not None:
        yield from _written_agreement(table.storage, settings.agreement)
        return
    other = TableStore(str(settings.table_b), table.storage)
    labels = common_labels(table.existing_spec()["labels"], other.existing_spec()["labels"])
    for found in measured_tables(table, other, labels=labels):
        yield from found.rows.to_batches()


def _written_agreement(storage: Storage, place: str) -> Iterator[pa.RecordBatch]:
    """Reads the rows that `maskformer compare` left in a folder, or one file of them."""
    single = storage.file(place)
    folders = [place, join(place, "agreement")]
    files = [single] if single else [file for each in folders for file in storage.files(each)]
    named = {file.uri: file for file in files if file.uri.endswith(".parquet")}
    if not named:
        raise ValueError(
            f"agreement must be the output of maskformer compare, {place} holds no Parquet file"
        )
    for file in named.values():
        with storage.open(file.uri, etag=file.etag, size=file.size) as data:
            rows = read_parquet(data)
        if not {*AGREEMENT.names} <= {*rows.column_names}:
            raise ValueError(f"{file.uri} has not the columns of an agreement, as disagreement")
        yield from rows.select(AGREEMENT.names).cast(AGREEMENT).to_batches()

"""Corpora that tests plan, and the images that plans put into units."""

from collections.abc import Iterable

from corpora import tar
from specs import panoptic_spec

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.planning.planner import Plan, Unit, UnitSettings, plan_corpus, settle_plan
from pipeline.storage import Storage
from pipeline.table.store import TableStore

STORAGE = Storage()
READING = ReadSettings()
SPEC = panoptic_spec("road", model_fingerprint="f")
SMALL = UnitSettings(unit_images=3, unit_bytes=10**6)


def plan_with(
    corpus: str, table: TableStore, *, units: UnitSettings = SMALL, limit: int | None = None
) -> Plan:
    return plan_corpus(corpus, table=table, spec=SPEC, reading=READING, units=units, limit=limit)


def settle(corpus: str, table: TableStore, run_id: str, **options) -> Plan:
    def plan() -> Plan:
        return plan_with(corpus, table, **options)

    return settle_plan(plan(), plan_again=plan, table=table, run_id=run_id)


def mark_done(units: Iterable[Unit], table: TableStore) -> None:
    for unit in units:
        table.storage.write(table.file("images", f"{unit.unit_id}.parquet"), b"")


def read_image_ids(sources: Iterable[Source]) -> list[str]:
    """The ids of all rows that reading these sources gives."""
    return [
        image.image_id
        for source in sources
        for image in read_source(source, storage=STORAGE, settings=READING)
    ]


def images_in(units: Iterable[Unit]) -> list[str]:
    return read_image_ids(source for unit in units for source in unit.sources)


def whole_corpus(corpus: str) -> list[str]:
    """All ids, from each file read in one piece."""
    return read_image_ids(list_corpus(corpus, storage=STORAGE, settings=READING).sources)


def shard(count: int, *, size: int = 100, start: int = 0) -> bytes:
    return tar([(f"{n:03}.jpg", bytes(size)) for n in range(start, start + count)])


def named_files(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names}

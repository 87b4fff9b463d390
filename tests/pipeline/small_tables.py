"""Tables that tests fill without a model: plans as runs make them, rows that tell of images."""

from collections.abc import Iterable, Mapping

import pyarrow as pa
from as_files import encode_table
from specs import panoptic_spec

from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.planning.planner import Plan, Unit, UnitSettings, plan_corpus, settle_plan
from pipeline.storage import Storage
from pipeline.table.latest import latest_segments
from pipeline.table.store import IMAGES, SEGMENTS, TableStore

SPEC = panoptic_spec("road")
READING = ReadSettings()


def settled(
    corpus: str, table: TableStore, run_id: str, *, unit_images: int = 3, **options
) -> Plan:
    """A plan in force."""

    def plan() -> Plan:
        return plan_corpus(
            corpus,
            table=table,
            spec=SPEC,
            reading=READING,
            units=UnitSettings(unit_images=unit_images),
            **options,
        )

    table.create(SPEC)
    return settle_plan(plan(), plan_again=plan, table=table, run_id=run_id)


def finish(
    units: Iterable[Unit], table: TableStore, *, errors: Mapping[str, str] | None = None
) -> None:
    """Commits units: each image has one segment whose area is its number of bytes.

    Args:
        errors: images in error by id, with their class.
    """
    for unit in units:
        images = [
            image
            for source in unit.sources
            for image in read_source(source, storage=Storage(), settings=READING)
        ]
        rows = [
            {
                "image_id": image.image_id,
                "uri": image.uri,
                "member": image.member,
                "etag": image.etag,
                "unit_id": unit.unit_id,
                "position": position,
                "status": "error" if image.image_id in (errors or {}) else "ok",
                "error_class": (errors or {}).get(image.image_id),
                "num_segments": int(image.image_id not in (errors or {})),
            }
            for position, image in enumerate(images)
        ]
        segments = [
            {"image_id": row["image_id"], "segment_id": 1, "area": len(image.data or b"")}
            for row, image in zip(rows, images, strict=True)
            if row["status"] == "ok"
        ]
        files = []
        for content, schema in ((segments, SEGMENTS), (rows, IMAGES)):
            rows_of_part = pa.Table.from_pylist(content, schema=schema)
            made_by = {**SPEC.file_metadata, "unit_id": unit.unit_id}
            files.append(encode_table(rows_of_part.replace_schema_metadata(made_by)))
        table.storage.write(table.file("segments", f"{unit.unit_id}.parquet"), files[0])
        table.finish(unit.unit_id, files[1])


def latest_areas(table: TableStore) -> dict[str, int]:
    """Returns the area of each image's segment by the latest rows."""
    rows = latest_segments(table.uri, columns=["image_id", "area"]).read_all().to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["area"] for row in rows}

"""Finds why an image is worth a look: one reason, one label and a strength for each image.

All is computed in a database on disk, by SQL over the latest rows: memory does not grow with the
table. `choosing.py` takes the candidates that come out.
"""

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.comparison.agreement import AGREEMENT
from pipeline.table.latest import latest_images, latest_segments
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.store import TableStore
from pipeline.table.strangeness import MEASURES, QUANTILES, SMALLEST_SHARE, distance_sql

_IMAGES = ("image_id", "uri", "member", "etag", "height", "width", "status", "coverage",
           "mean_score")  # fmt: skip
_SEGMENTS = ("image_id", "segment_id", "label", "score", "area", "second_label", "second_score")

_SMALLEST_SHARE = 0.005
"""Of an image's pixels: a smaller segment is a reason only where there is no larger one."""

# One row per image: `label` is the label that it is chosen for, null without a segment.
_UNSURE = f"""
    CREATE TABLE candidates AS
    SELECT image_id, label, 1 - (score - coalesce(second_score, 0)) AS strength,
        printf('%s of %.1f %% of the image has score %.2f', label, 100 * share, score)
            || CASE WHEN second_label IS NULL THEN ''
                    ELSE printf(', %s %.2f', second_label, second_score) END AS reason
    FROM (SELECT *, area / (height * width) AS share FROM segments JOIN images USING (image_id))
    QUALIFY row_number() OVER (
        PARTITION BY image_id ORDER BY share < {_SMALLEST_SHARE},
        score - coalesce(second_score, 0), area DESC, segment_id
    ) = 1
"""
_STRANGE = f"""
    CREATE TABLE label_shares AS
    SELECT label, greatest(sum(area) / sum(sum(area)) OVER (), {SMALLEST_SHARE}) AS share
    FROM segments GROUP BY label;
    CREATE TABLE measured AS
    SELECT image_id, any_value(mean_score) AS mean_score, any_value(coverage) AS coverage,
        round(sum(area * -ln(share)) / sum(area), 6) AS surprise,
        arg_max(label, (area * -ln(share), label)) AS rarest
    FROM images LEFT JOIN (SELECT * FROM segments JOIN label_shares USING (label)) USING (image_id)
    GROUP BY image_id;
    CREATE TABLE quantiles AS
    SELECT {", ".join(f"quantile_cont({name}, {[*QUANTILES]}) AS {name}" for name in MEASURES)}
    FROM measured;
    CREATE TABLE reasons AS
    SELECT image_id, rarest, unnest([
        {{'strength': {distance_sql("mean_score", above=False)},
         'reason': printf('mean score %.2f; 95 %% of images have at least %.2f',
                          m.mean_score, q.mean_score[1])}},
        {{'strength': {distance_sql("coverage", above=False)},
         'reason': printf('segments cover only %.1f %% of the image; 95 %% of images have at '
                          'least %.1f %%', 100 * m.coverage, 100 * q.coverage[1])}},
        {{'strength': {distance_sql("coverage", above=True)},
         'reason': printf('segments cover %.1f %% of the image; 95 %% of images have at most '
                          '%.1f %%', 100 * m.coverage, 100 * q.coverage[3])}},
        {{'strength': {distance_sql("surprise", above=True)},
         'reason': printf('labels that are rare in the table, %s most; surprise %.1f, 95 %% of '
                          'images have at most %.1f', m.rarest, m.surprise, q.surprise[3])}}
    ], recursive := true) FROM measured m, quantiles q;
    CREATE TABLE candidates AS
    SELECT image_id, rarest AS label, strength, reason FROM reasons WHERE strength IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY strength DESC, reason) = 1
"""
_DISAGREE = """
    CREATE TABLE candidates AS
    SELECT image_id, coalesce(change_from, change_to) AS label, disagreement AS strength,
        printf('%.1f %% of its area has the same label in both tables', 100 * area_same_label)
            || CASE WHEN change_share > 0 THEN printf('; largest change: %s to %s, %.1f %%',
                coalesce(change_from, 'no segment'), coalesce(change_to, 'no segment'),
                100 * change_share) ELSE '' END AS reason
    FROM agreement JOIN images USING (image_id) WHERE disagreement > 0
"""
_RANDOM = """
    CREATE TABLE candidates AS
    SELECT image_id, arg_min(label, md5(? || label || image_id)) AS label,
        0.0::DOUBLE AS strength,
        'chosen at random' AS reason
    FROM images LEFT JOIN segments USING (image_id) GROUP BY image_id
"""


def read_rows(
    table: TableStore,
    database: ScratchDatabase,
    *,
    reviewed: Mapping[str, str],
    on_images: Callable[[int], object],
) -> None:
    """Reads the latest rows into the database, without images in error and those reviewed.

    Args:
        reviewed: the etag that was reviewed by image_id; other versions of the image are kept.
        on_images: called with the number of images whose segments were just read.
    """
    database.run("CREATE TABLE reviewed (image_id TEXT, etag TEXT)")
    versions = ([*reviewed], [*reviewed.values()])
    columns = [pa.array(values, pa.string()) for values in versions]
    database.insert("reviewed", pa.table(columns, names=["image_id", "etag"]))
    images = latest_images(table.uri, columns=_IMAGES, storage=table.storage)
    with database.view("latest", images):
        database.run(
            "CREATE TABLE images AS SELECT * FROM latest ANTI JOIN reviewed USING (image_id, etag) "
            "WHERE status = 'ok'"
        )
    segments = latest_segments(table.uri, columns=_SEGMENTS, storage=table.storage)
    with database.view("latest", _counted(segments, on_images)):
        database.run(
            "CREATE TABLE segments AS SELECT * FROM latest SEMI JOIN images USING (image_id)"
        )


def _counted(
    rows: pa.RecordBatchReader, on_images: Callable[[int], object]
) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            yield batch
            on_images(pc.count_distinct(batch["image_id"]).as_py())

    return pa.RecordBatchReader.from_batches(rows.schema, batches())


def find_unsure(database: ScratchDatabase) -> None:
    """Makes candidates of images by the segment whose second label is closest."""
    database.run(_UNSURE)


def find_strange(database: ScratchDatabase) -> None:
    """Makes candidates of images by what is most unusual in them."""
    for statement in _STRANGE.split(";\n"):
        database.run(statement)


def find_disagreeing(database: ScratchDatabase, agreement: Iterator[pa.RecordBatch]) -> None:
    """Makes candidates of images by rows of `AGREEMENT`."""
    rows = pa.RecordBatchReader.from_batches(AGREEMENT, agreement)
    with database.view("agreement", rows):
        database.run(_DISAGREE)


def find_random(database: ScratchDatabase, *, seed: int) -> None:
    """Makes candidates of all images, each for one of its labels."""
    database.run(_RANDOM, str(seed))

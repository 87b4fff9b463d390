"""Finds the images of a file in the table: by id, by name, and by size.

A name may have lost its folders or its extension on its way through another tool, or have gained
some: `images/town/1.png` is `town/1.jpg` where no other image of the table could be meant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.corpora.endings import IMAGE_ENDINGS, ending
from pipeline.exchange.importing.findings import ImportFindings
from pipeline.exchange.names import stem_of, told_apart
from pipeline.runtime.progress import ImageCount, ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.storage import Storage
from pipeline.table.latest import latest_images
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.store import images

_COLUMNS = ("image_id", "unit_id", "position", "etag", "height", "width", "status")
_NAMES = pa.schema([("name", pa.string()), ("rank", pa.int32()), ("owner", pa.string())])
_ROWS_AT_ONCE = 1 << 14
_BY_LAST_NAME = 1000
"""Added to the rank of a name without folders: every other match goes before."""


@dataclass(frozen=True, kw_only=True)
class MatchCounts:
    """The images of a file, and those of them that the table has too."""

    listed: int
    matched: int


def match_images(
    table: str, *, storage: Storage, database: ScratchDatabase, findings: ImportFindings
) -> MatchCounts:
    """Makes `matched` of the staged `file_images`: key, image_id and the table's row of each.

    Images that are not in the table, or not as they were, are findings.
    """
    stats = RunStats()
    extent = ImageCount(num_images=images(table, storage=storage).count_rows())

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in latest:
            stats.add_images(len(batch))
            yield batch

    with ProgressDisplay(stats, extent, doing="matching"):
        latest = latest_images(table, columns=_COLUMNS, storage=storage)
        with database.view("rows", pa.RecordBatchReader.from_batches(latest.schema, rows())):
            database.run("CREATE TABLE table_images AS SELECT * FROM rows")
    database.run(_LISTED_TWICE)
    database.run(_BEST)
    if next(database.rows(f"SELECT count(*) FROM ({_UNMATCHED})"))[0]:
        _match_by_name(database)
    database.run(_MATCHED)
    for rule, query in _FINDINGS.items():
        for name, detail in database.rows(query):
            findings.add(rule, name, detail or "")
    database.run(_TAKEN)
    [(listed,)] = database.rows("SELECT count(*) FROM file_images")
    [(matched,)] = database.rows("SELECT count(*) FROM matched")
    return MatchCounts(listed=listed, matched=matched)


def _match_by_name(database: ScratchDatabase) -> None:
    """Adds the best match of images whose whole name is no image_id."""
    database.run("CREATE TABLE file_names (name VARCHAR, rank INTEGER, owner VARCHAR)")
    database.run("CREATE TABLE table_names (name VARCHAR, rank INTEGER, owner VARCHAR)")
    _insert_names(
        database,
        "file_names",
        ((key, _file_names(name)) for key, name in database.rows(_UNMATCHED)),
    )
    ids = database.rows("SELECT image_id FROM table_images")
    _insert_names(database, "table_names", ((name, _table_names(name)) for (name,) in ids))
    database.run(_BEST_BY_NAME)


def _insert_names(
    database: ScratchDatabase,
    table: str,
    named: Iterator[tuple[str, list[tuple[str, int]]]],
) -> None:
    # All rows of a query are taken before the next statement runs: in pieces, to a list of columns.
    pieces: list[pa.Table] = []
    names, ranks, owners = [], [], []
    for owner, found in named:
        for name, rank in found:
            names.append(name)
            ranks.append(rank)
            owners.append(owner)
        if len(names) >= _ROWS_AT_ONCE:
            pieces.append(pa.table([names, ranks, owners], schema=_NAMES))
            names, ranks, owners = [], [], []
    pieces.append(pa.table([names, ranks, owners], schema=_NAMES))
    for piece in pieces:
        database.insert(table, piece)


def _file_names(name: str) -> list[tuple[str, int]]:
    """Returns what an image of the file may be called in the table, the best first.

    Folders in front are left out one by one, and the ending of an image is.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    found: dict[str, int] = {}
    for first in range(len(parts)):
        path = "/".join(parts[first:])
        found.setdefault(path, 10 * first)
        found.setdefault(_without_ending(path), 10 * first + 1)
    if len(parts) == 1:
        found[f"*/{parts[0]}"] = _BY_LAST_NAME
        found[f"*/{_without_ending(parts[0])}"] = _BY_LAST_NAME + 1
    return list(found.items())


def _table_names(image_id: str) -> list[tuple[str, int]]:
    """Returns the names that an image of the table may have in a file, the best first."""
    found = {image_id: 0}
    for has_ending in (True, False):
        stem = stem_of(image_id, has_ending=has_ending)
        found.setdefault(told_apart(stem, image_id), 1)
        found.setdefault(stem, 2)
    last = image_id.rpartition("/")[2]
    if last != image_id:
        found.setdefault(f"*/{last}", 3)
        found.setdefault(f"*/{_without_ending(last)}", 4)
    return list(found.items())


def _without_ending(name: str) -> str:
    return name.rpartition(".")[0] if ending(name) in IMAGE_ENDINGS else name


_LISTED_TWICE = """
    CREATE TABLE listed_twice AS
    SELECT key FROM file_images GROUP BY key HAVING count(*) > 1
"""
_BEST = """
    CREATE TABLE best AS
    SELECT key, table_images.image_id, false AS is_unsure FROM file_images
    JOIN table_images ON table_images.image_id = coalesce(file_images.image_id, file_images.name)
"""
_UNMATCHED = "SELECT DISTINCT key, name FROM file_images ANTI JOIN best USING (key)"
_BEST_BY_NAME = """
    CREATE TABLE candidates AS
    SELECT file_names.owner AS key, table_names.owner AS image_id,
        10 * file_names.rank + table_names.rank AS rank
    FROM file_names JOIN table_names USING (name)
    -- A file that carries image_ids names the images itself.
    SEMI JOIN (SELECT key FROM file_images WHERE image_id IS NULL) owners
    ON owners.key = file_names.owner;
    INSERT INTO best SELECT key, min(image_id), min(image_id) != max(image_id) FROM candidates
    SEMI JOIN (SELECT key, min(rank) AS rank FROM candidates GROUP BY key) lowest USING (key, rank)
    GROUP BY key
"""
_MATCHED = """
    CREATE TABLE meant_twice AS
    SELECT image_id FROM best ANTI JOIN listed_twice USING (key) WHERE NOT is_unsure
    GROUP BY image_id HAVING count(*) > 1;
    CREATE TABLE found AS
    SELECT f.key, f.name, f.etag AS file_etag, f.revision, f.reviewer, f.place,
        f.height AS file_height, f.width AS file_width, t.*,
        t.image_id IN (SELECT image_id FROM meant_twice) AS is_twice
    FROM file_images f JOIN best ON best.key = f.key AND NOT best.is_unsure
    JOIN table_images t ON t.image_id = best.image_id
    ANTI JOIN listed_twice ON listed_twice.key = f.key
"""
_SIZE_DIFFERS = """
    (coalesce(file_height, height) != height OR coalesce(file_width, width) != width)
"""
_FINDINGS = {
    "listed twice in the file": """
        SELECT any_value(name), 'id ' || key FROM file_images SEMI JOIN listed_twice USING (key)
        GROUP BY key ORDER BY min(place)
    """,
    "not in the table": """
        SELECT name, NULL FROM file_images ANTI JOIN best USING (key)
        ANTI JOIN listed_twice USING (key) ORDER BY place
    """,
    "several images of the table may be meant": """
        SELECT name, NULL FROM file_images JOIN best USING (key)
        ANTI JOIN listed_twice USING (key) WHERE is_unsure ORDER BY place
    """,
    "of an image that the file has twice": """
        SELECT name, image_id FROM found WHERE is_twice ORDER BY place
    """,
    "in error in the table": """
        SELECT name, image_id FROM found WHERE NOT is_twice AND status != 'ok' ORDER BY place
    """,
    "stale, the photograph has changed since": """
        SELECT name, image_id FROM found
        WHERE NOT is_twice AND status = 'ok' AND file_etag != etag ORDER BY place
    """,
    "of another size": f"""
        SELECT name, printf('%d x %d, in the table %d x %d (height x width)',
            file_height, file_width, height, width) FROM found
        WHERE NOT is_twice AND status = 'ok' AND coalesce(file_etag, etag) = etag
        AND {_SIZE_DIFFERS} ORDER BY place
    """,
    "with annotations of an image that the file does not list": """
        SELECT 'image ' || image, sum(number) || ' annotations' FROM regions
        ANTI JOIN file_images ON file_images.key = regions.image GROUP BY image ORDER BY min(place)
    """,
}
_TAKEN = f"""
    CREATE TABLE matched AS
    SELECT key, name, image_id, unit_id, position, etag, height, width, revision, reviewer
    FROM found WHERE NOT is_twice AND status = 'ok' AND coalesce(file_etag, etag) = etag
    AND NOT {_SIZE_DIFFERS}
"""

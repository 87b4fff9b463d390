"""Looks at the identifiers of a table before its export: counts, order of units, names.

What an export calls an image must not depend on the images before it, and two images must not share
a name; only a look at all of them tells. Names are joined in a temporary database on disk.
"""

import bisect
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from pipeline.corpora.corpus import kind_of
from pipeline.corpora.endings import READ_ENDINGS, ending
from pipeline.exchange.exporting.formats import Format
from pipeline.exchange.names import same_place, stem_of, told_apart
from pipeline.runtime.progress import ImageCount, ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.table.latest import Generations, generations
from pipeline.table.scratch import scratch_database
from pipeline.table.store import IMAGES, DoneUnits, TableStore

_COLUMNS = ("image_id", "unit_id", "status", "uri", "member")
_IDS = "CREATE TABLE stems (image_id VARCHAR, place VARCHAR)"
_SHARED = "SELECT image_id FROM stems QUALIFY count(*) OVER (PARTITION BY place) > 1"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Decides the part of an export that an image belongs to, by its id alone."""

    shares: Mapping[str, float]

    def of(self, image_id: str) -> str:
        names = [*self.shares]
        if len(names) == 1:
            return names[0]
        digest = hashlib.sha256(image_id.encode(errors="surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        bounds = [*accumulate(self.shares.values())][:-1]
        return names[bisect.bisect_right(bounds, place)]


@dataclass(frozen=True, kw_only=True)
class ImageNames:
    """Names images in one format."""

    format: Format
    shared: frozenset[str]
    """Images whose names are also those of others."""

    def stem(self, row: Mapping[str, Any]) -> str:
        """Returns the name without extension of an image, by its row of `images`."""
        stem = _stem(row, self.format)
        return told_apart(stem, row["image_id"]) if row["image_id"] in self.shared else stem


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The images of a table and their order, before the export."""

    now: Generations
    done: DoneUnits
    units: tuple[str, ...]
    """In the order in which they are exported."""
    names: ImageNames
    num_images: Mapping[str, int]
    """Images without error by split."""
    errors: int
    """Images in error."""

    @property
    def units_digest(self) -> str:
        """Returns 16 hexadecimal digits that change with the units that are done."""
        return hashlib.sha256("\n".join(sorted(self.now.units)).encode()).hexdigest()[:16]


def survey(table: TableStore, *, format: Format, splits: Splits) -> Survey:
    """Reads the identifiers of the latest rows."""
    now = generations(table)
    done = table.units()  # afterwards, so that it has all units of `now`
    first: dict[str, str] = {}
    counts: Counter[str] = Counter(dict.fromkeys(splits.shares, 0))
    errors = 0
    dataset, stats = table.dataset("images", IMAGES), RunStats()
    extent = ImageCount(num_images=dataset.count_rows())
    with scratch_database() as database, ProgressDisplay(stats, extent, doing="listing"):
        database.run(_IDS)
        for batch in dataset.to_batches(columns=list(_COLUMNS)):
            stats.add_images(len(batch))
            _note_first(first, batch)
            latest = batch.filter(pa.array(now.is_latest(batch["image_id"], batch["unit_id"])))
            rows = latest.to_pylist()
            usable = [row for row in rows if row["status"] == "ok"]
            errors += len(rows) - len(usable)
            counts.update(splits.of(row["image_id"]) for row in usable)
            places = [same_place(_stem(row, format)) for row in usable]
            ids = [row["image_id"] for row in usable]
            database.insert("stems", pa.table({"image_id": ids, "place": places}, schema=_STEMS))
        shared = frozenset(image_id for (image_id,) in database.rows(_SHARED))
    units = sorted((unit for unit in first if unit in now.units), key=lambda u: (first[u], u))
    return Survey(
        now=now,
        done=done,
        units=tuple(units),
        names=ImageNames(format=format, shared=shared),
        num_images=dict(counts),
        errors=errors,
    )


_STEMS = pa.schema([("image_id", pa.string()), ("place", pa.string())])


def known_ending(row: Mapping[str, Any]) -> str | None:
    """Returns the ending of an image's file or member; None where its bytes must tell."""
    if row["member"] is None and kind_of(row["uri"]) not in ("file", None):
        return None
    found = ending(row["member"] or row["uri"])
    return found if found in READ_ENDINGS else None


def _stem(row: Mapping[str, Any], format: Format) -> str:
    return stem_of(
        row["image_id"],
        has_ending=row["member"] is None,
        reserved_folders=format.reserved_folders,
        allows_dots=format.allows_dots,
        allows_folders=format.allows_folders,
    )


def _note_first(first: dict[str, str], batch: pa.RecordBatch) -> None:
    """Keeps the smallest image_id of each unit."""
    if not batch.num_rows:
        return
    rows = pa.Table.from_batches([batch]).group_by("unit_id")
    for row in rows.aggregate([("image_id", "min")]).to_pylist():
        unit_id, image_id = row["unit_id"], row["image_id_min"]
        first[unit_id] = min(first.get(unit_id, image_id), image_id)

"""Gives the matched images back one by one, each with its regions, in the order of the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter

import pyarrow as pa

from pipeline.exchange.importing.annotations import Region
from pipeline.exchange.importing.payloads import Payloads
from pipeline.table.scratch import ScratchDatabase

_ROWS_AT_ONCE = 1 << 11
_LEVEL = attrgetter("level")
_ROWS = """
    SELECT m.key, m.name, m.image_id, m.unit_id, m.etag, m.height, m.width, m.revision, m.reviewer,
        r.start, r.length
    FROM matched m LEFT JOIN regions r ON r.image = m.key
    ORDER BY m.unit_id, m.position, m.image_id, r.start
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedImage:
    """An image of the table with the regions that the file has of it, the lowest first."""

    name: str
    """What the file calls it."""
    image_id: str
    unit_id: str
    etag: str
    height: int
    width: int
    revision: int | None
    reviewer: str | None
    regions: tuple[Region, ...]


def matched_images(database: ScratchDatabase, *, payloads: Payloads) -> Iterator[MatchedImage]:
    """Yields the images of `matched`, unit by unit; no other query may run meanwhile."""
    for _, rows in groupby(_rows(database), key=itemgetter(0)):
        first, *others = rows
        regions = [
            region
            for *_, start, length in (first, *others)
            if start is not None
            for region in payloads.read(start, length)
        ]
        _, name, image_id, unit_id, etag, height, width, revision, reviewer, *_ = first
        yield MatchedImage(
            name=name, image_id=image_id, unit_id=unit_id, etag=etag, height=height, width=width,
            revision=revision, reviewer=reviewer,
            regions=tuple(sorted(regions, key=_LEVEL)),
        )  # fmt: skip


def _rows(database: ScratchDatabase) -> Iterator[tuple]:
    for batch in database.batches(_ROWS):
        # As Python's values a batch takes many times its size.
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            piece = pa.Table.from_batches([batch.slice(start, _ROWS_AT_ONCE)])
            yield from zip(*(column.to_pylist() for column in piece.columns), strict=True)

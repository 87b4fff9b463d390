"""Checks while planning that no two images of a corpus have the same id.

A path below the root belongs to one file only. Ids can be the same if a manifest gives them, if
they are values of Parquet's key column, or if two roots are labelled into one table. Only in these
cases ids go into a database on disk, to be compared.

An image that moved keeps its id: an id in the table counts only while its image is still there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.encoded import ReadSettings
from pipeline.corpora.parquet_images import row_keys
from pipeline.corpora.sources import Source
from pipeline.planning.listing_diff import ListingDiff
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.storage import Storage
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.units import given_names, sources_of

_MOST_SHOWN = 3
_MOST_LOOKED_UP = 100
_BATCH = 2**16

Ids = tuple[Sequence[str], Sequence[str]]
"""Some ids, and the location of the image of each."""

_TABLES = """
    CREATE TABLE listed_ids (id TEXT, place TEXT);
    CREATE TABLE new_ids (id TEXT, place TEXT);
    CREATE TABLE planned_ids (id TEXT, place TEXT);
"""
_SHARED_IDS = """
    SELECT id, list(place ORDER BY place), count(*) OVER () FROM listed_ids
    GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT ?
"""
_IDS_OF_OTHERS = """
    SELECT id, list(DISTINCT planned_ids.place), list(DISTINCT new_ids.place)
    FROM new_ids JOIN planned_ids USING (id) WHERE new_ids.place <> planned_ids.place
    GROUP BY id ORDER BY id LIMIT ?
"""


@dataclass(frozen=True, kw_only=True)
class IdCheck:
    """Checks the ids of a listing that was compared with previous plans."""

    diff: ListingDiff
    previous: PreviousPlans
    root: str
    reading: ReadSettings
    storage: Storage
    database: ScratchDatabase

    def run(self) -> None:
        """Compares ids only where some can be the same.

        Raises:
            ValueError: images share an id; the message says which, where they are, and what to do.
        """
        are_given, has_keys = self.diff.has_given_names, self._has_new_keys()
        self.database.run(_TABLES)
        if are_given:
            self._refuse_names_of_members()
        if are_given or has_keys:
            self._refuse_shared(has_keys=has_keys)
        if are_given or self.previous.has_given_names or self.previous.roots - {self.root}:
            self._refuse_those_of_others()

    def _has_new_keys(self) -> bool:
        if self.reading.key_column is None or not any(
            source.kind == "parquet" for source in self.diff.archives
        ):
            return False
        return any(source.kind == "parquet" for source in self.diff.new())

    def _refuse_names_of_members(self) -> None:
        """Raises if an id begins with an archive's name, since an image in it may have this id."""
        archives = {source.name for source in self.diff.archives}
        for _, rows in self.diff.listed() if archives else ():
            given = rows.filter(given_names(rows, root=self.root))
            for name, uri in zip(given["name"].to_pylist(), given["uri"].to_pylist(), strict=True):
                ends = [place for place, letter in enumerate(name) if letter == "/"]
                if any(name[:end] in archives for end in ends):
                    raise ValueError(
                        f"an id must not begin like those of images in an archive: {name!r} of "
                        f"{uri}; give it another image_id"
                    )

    def _refuse_shared(self, *, has_keys: bool) -> None:
        for ids in self._listed(with_keys=has_keys):
            self._insert("listed_ids", ids)
        shared = list(self.database.rows(_SHARED_IDS, _MOST_SHOWN))
        if shared:
            way_out = "give each its own" + (
                "" if self.reading.key_column is None else ", or leave --key_column out"
            )
            places = [(image_id, uris) for image_id, uris, _ in shared]
            raise ValueError(_message(places, count=shared[0][2], way_out=way_out))

    def _refuse_those_of_others(self) -> None:
        """Raises if new sources have names that the table has for others, which still exist."""
        has_new = False
        for ids in self._new():
            has_new = True
            self._insert("new_ids", ids)
        for ids in self._planned() if has_new else ():
            self._insert("planned_ids", ids)
        found = list(self.database.rows(_IDS_OF_OTHERS, _MOST_LOOKED_UP))
        places = [
            (image_id, [*existing, *sorted(new)])
            for image_id, planned, new in found
            if (existing := self._existing(set(planned) - set(new)))
        ]
        if places:
            way_out = "label into another table, or make a folder above all of them the corpus"
            raise ValueError(_message(places, count=len(places), way_out=way_out))

    def _insert(self, table: str, ids: Ids) -> None:
        names, places = ids
        rows = {"id": pa.array(names, pa.string()), "place": pa.array(places, pa.string())}
        self.database.insert(table, pa.table(rows))

    def _existing(self, uris: Iterable[str]) -> list[str]:
        return [uri for uri in sorted(uris) if self.storage.file(uri) is not None]

    def _listed(self, *, with_keys: bool) -> Iterator[Ids]:
        archives: set[tuple[str, str]] = set()
        for _, rows in self.diff.listed():
            is_file = pc.equal(rows["kind"], "file")
            files = rows.filter(is_file)
            yield files["name"].to_pylist(), files["uri"].to_pylist()
            others = sources_of(rows.filter(pc.invert(is_file)))
            # A set, since the listing may have several parts of one archive.
            archives |= {(source.name, source.uri) for source in others}
            for source in others if with_keys else ():
                yield from self._keys(source)
        yield [f"{name}/" for name, _ in archives], [uri for _, uri in archives]

    def _keys(self, source: Source) -> Iterator[Ids]:
        if source.kind != "parquet" or not source.etag or self.reading.key_column is None:
            return
        row = source.start
        with self.storage.open(source.uri, etag=source.etag, size=source.size) as file:
            for batch in row_keys(file, source, key_column=self.reading.key_column):
                ids = [
                    f"{source.name}/{row + place}" if key is None else key
                    for place, key in enumerate(batch)
                ]
                yield ids, [f"{source.uri}, row {row + n}" for n in range(len(batch))]
                row += len(batch)

    def _new(self) -> Iterator[Ids]:
        sources = self.diff.new()
        while batch := list(islice(sources, _BATCH)):
            yield self._of_sources([(s.kind, s.name, s.uri) for s in batch])

    def _planned(self) -> Iterator[Ids]:
        columns = ("kind", "name", "uri")
        for rows in self.previous.rows(columns):
            values = (rows[name].to_pylist() for name in columns)
            yield self._of_sources(list(zip(*values, strict=True)))

    def _of_sources(self, sources: Sequence[tuple[str, str, str]]) -> Ids:
        """Returns ids of files, and prefixes of ids in archives; keys of Parquet have no prefix."""
        left_out = None if self.reading.key_column is None else "parquet"
        kept = [source for source in sources if source[0] != left_out]
        ids = [name if kind == "file" else f"{name}/" for kind, name, _ in kept]
        return ids, [uri for _, _, uri in kept]


def _message(places: Sequence[tuple[str, Sequence[str]]], *, count: int, way_out: str) -> str:
    shown = "; ".join(
        f"{image_id!r} is that of {' and '.join(uris[:2])}"
        + (f" and {len(uris) - 2:,} more" if len(uris) > 2 else "")
        for image_id, uris in places[:_MOST_SHOWN]
    )
    others = f" (and {count - _MOST_SHOWN:,} ids more)" if count > _MOST_SHOWN else ""
    return f"an image_id must name one image: {shown}{others}; {way_out}"

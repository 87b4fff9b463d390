"""Identities: no two images of a corpus may have one id, found out while planning.

A path below the root is one file's. What may be alike are ids that a manifest gives, the values of
Parquet's key column, and the paths of two roots that go into one table. Only where there are such,
ids go to disk as digests, to be compared a 64th at a time: of ten million keys 240 MB, and a read
of their column.

An id whose image has moved keeps its name: that the table knows it from another place counts only
while something is there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipeline.corpora.encoded import ReadSettings
from pipeline.corpora.parquet_images import row_keys
from pipeline.corpora.sources import Source
from pipeline.planning.listing_diff import ListingDiff
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.storage import Storage
from pipeline.table.partitions import KEY, Partitions, Records, grouped, keys
from pipeline.table.units import given_names, sources_of

_RECORD = np.dtype([KEY, ("uri", "u8", (2,)), ("is_new", "?")])
_MOST_SHOWN = 3
_MOST_LOOKED_AT = 100
_BATCH = 2**16


@dataclass(frozen=True, kw_only=True)
class IdCheck:
    """Looks whether ids are shared, in a listing that was compared with earlier plans."""

    comparison: ListingDiff
    earlier: PreviousPlans
    root: str
    reading: ReadSettings
    storage: Storage
    folder: Path

    def run(self) -> None:
        """Looks only where ids can be shared at all.

        Raises:
            ValueError: with some that are, where they are, and what to do.
        """
        are_given, has_keys = self.comparison.has_given_names, self._has_new_keys()
        if are_given:
            self._refuse_names_of_members()
        if are_given or has_keys:
            self._refuse_shared(has_keys=has_keys)
        if are_given or self.earlier.has_given_names or self.earlier.roots - {self.root}:
            self._refuse_those_of_others()

    def _has_new_keys(self) -> bool:
        if self.reading.key_column is None or not any(
            source.kind == "parquet" for source in self.comparison.archives
        ):
            return False
        return any(source.kind == "parquet" for source in self.comparison.new())

    def _refuse_names_of_members(self) -> None:
        """An id below an archive's name may be that of an image in it, which nobody has read."""
        archives = {source.name for source in self.comparison.archives}
        for _, rows in self.comparison.listed() if archives else ():
            given = rows.filter(given_names(rows, root=self.root))
            for name, uri in zip(given["name"].to_pylist(), given["uri"].to_pylist(), strict=True):
                ends = [place for place, letter in enumerate(name) if letter == "/"]
                if any(name[:end] in archives for end in ends):
                    raise ValueError(
                        f"an id must not begin as those of images in an archive do: {name!r} of "
                        f"{uri}; give it another image_id"
                    )

    def _refuse_shared(self, *, has_keys: bool) -> None:
        records = Partitions(self.folder / "ids", dtype=_RECORD)
        for each in self._listed(with_keys=has_keys):
            records.add(each.records())
        shared: set[bytes] = set()
        count = 0
        for part in records:
            if len(part):
                (group,) = grouped(part)
                _, firsts = np.unique(group, return_index=True)
                repeated = firsts[np.bincount(group) > 1]
                count += len(repeated)
                shared |= {part["key"][n].tobytes() for n in repeated[: _MOST_SHOWN - len(shared)]}
        if count:
            places: dict[str, list[str]] = {}
            for each in self._listed(with_keys=has_keys):
                each.find(shared, into=places)
            way_out = "give each its own" + (
                "" if self.reading.key_column is None else ", or leave --key_column out"
            )
            raise ValueError(_message(places, count=count, way_out=way_out))

    def _listed(self, *, with_keys: bool) -> Iterator["_Ids"]:
        archives: set[tuple[str, str]] = set()
        for _, rows in self.comparison.listed():
            is_file = pc.equal(rows["kind"], "file")
            files = rows.filter(is_file)
            yield _Ids(files["name"].to_pylist(), files["uri"].to_pylist())
            others = sources_of(rows.filter(pc.invert(is_file)))
            # Of one archive there may be several parts.
            archives |= {(source.name, source.uri) for source in others}
            for source in others if with_keys else ():
                yield from self._keys(source)
        names = sorted(archives)
        yield _Ids([f"{name}/" for name, _ in names], [uri for _, uri in names])

    def _keys(self, source: Source) -> Iterator["_Ids"]:
        if source.kind != "parquet" or not source.etag or self.reading.key_column is None:
            return
        row = source.start
        with self.storage.open(source.uri, etag=source.etag, size=source.size) as file:
            for batch in row_keys(file, source, key_column=self.reading.key_column):
                ids = [
                    f"{source.name}/{row + place}" if key is None else key
                    for place, key in enumerate(batch)
                ]
                yield _Ids(ids, [f"{source.uri}, row {row + n}" for n in range(len(batch))])
                row += len(batch)

    def _refuse_those_of_others(self) -> None:
        """New sources may not have names that the table has for others which are still there."""
        records = Partitions(self.folder / "ids-of-plans", dtype=_RECORD)
        is_any = False
        for each in self._new():
            is_any = True
            records.add(each.records(is_new=True))
        if not is_any:
            return
        for each in self._planned():
            records.add(each.records())
        shared: set[bytes] = set()
        for part in records:
            shared |= _with_other_places(part, most=_MOST_LOOKED_AT - len(shared))
        known: dict[str, list[str]] = {}
        new: dict[str, list[str]] = {}
        for each in self._planned() if shared else ():
            each.find(shared, into=known)
        for each in self._new() if shared else ():
            each.find(shared, into=new)
        places = {
            image_id: [*there, *uris]
            for image_id, uris in new.items()
            if (there := self._still_there(known.get(image_id, ()), but=uris))
        }
        if places:
            way_out = "label into another table, or make a folder above all of them the corpus"
            raise ValueError(_message(places, count=len(places), way_out=way_out))

    def _still_there(self, uris: Iterable[str], *, but: list[str]) -> list[str]:
        others = [uri for uri in dict.fromkeys(uris) if uri not in but]
        return [uri for uri in others if self.storage.file(uri) is not None]

    def _new(self) -> Iterator["_Ids"]:
        sources = iter(self.comparison.new())
        while batch := list(islice(sources, _BATCH)):
            yield self._of_sources([(s.kind, s.name, s.uri) for s in batch])

    def _planned(self) -> Iterator["_Ids"]:
        columns = ("kind", "name", "uri")
        for rows in self.earlier.rows(columns):
            values = (rows[name].to_pylist() for name in columns)
            yield self._of_sources(list(zip(*values, strict=True)))

    def _of_sources(self, sources: Sequence[tuple[str, str, str]]) -> "_Ids":
        """Ids of files, and what ids in archives begin with; in Parquet with keys, they do not."""
        left_out = None if self.reading.key_column is None else "parquet"
        kept = [source for source in sources if source[0] != left_out]
        ids = [name if kind == "file" else f"{name}/" for kind, name, _ in kept]
        return _Ids(ids, [uri for _, _, uri in kept])


@dataclass(frozen=True)
class _Ids:
    """Some ids, and where the image of each is."""

    ids: list[str]
    places: list[str]

    def records(self, *, is_new: bool = False) -> Records:
        records = np.empty(len(self.ids), _RECORD)
        if self.ids:
            records["key"], records["uri"] = keys(self.ids), keys(self.places)
        records["is_new"] = is_new
        return records

    def find(self, wanted: set[bytes], *, into: dict[str, list[str]]) -> None:
        """Adds the places of the ids with these digests."""
        for image_id, place, key in zip(self.ids, self.places, keys(self.ids), strict=True):
            if key.tobytes() in wanted:
                into.setdefault(image_id, []).append(place)


def _with_other_places(records: Records, *, most: int) -> set[bytes]:
    """Keys of new ids that are there for another place too, so many at most."""
    if not len(records) or most <= 0:
        return set()
    (group,) = grouped(records)
    num_groups = int(group.max()) + 1
    has_new = np.bincount(group[records["is_new"]], minlength=num_groups) > 0
    first = np.empty((num_groups, 2), np.uint64)
    first[group] = records["uri"]
    is_other = np.any(records["uri"] != first[group], axis=1)
    has_other = np.bincount(group[is_other], minlength=num_groups) > 0
    found = records["key"][(has_new & has_other)[group]]
    return {key.tobytes() for key in found[: 2 * most]}


def _message(places: Mapping[str, Sequence[str]], *, count: int, way_out: str) -> str:
    shown = "; ".join(
        f"{image_id!r} is that of {' and '.join(uris[:2])}"
        + (f" and {len(uris) - 2:,} more" if len(uris) > 2 else "")
        for image_id, uris in list(places.items())[:_MOST_SHOWN]
    )
    others = f" (and {count - _MOST_SHOWN:,} ids more)" if count > _MOST_SHOWN else ""
    return f"an image_id must name one image: {shown}{others}; {way_out}"

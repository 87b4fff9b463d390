"""Compares the single files of a listing with previous plans, in a database larger than memory.

An older version of a file is *outdated* if a later plan has another version: its rows stay, but are
not the latest. A file that changes back is therefore planned like one that changed.

A file that was labelled and is absent now is *gone*: it is not planned, so that its rows stay the
latest.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.corpora.sources import Source
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.table.scratch import ScratchDatabase

Flags = npt.NDArray[np.bool_]

_NO_UNIT = -1

# Files that several units hold, with one row for each of these units.
_SHARED_FILES = """
    CREATE OR REPLACE TABLE shared_files AS
    WITH shared AS (
        SELECT uri, unit, etag, again, plan, is_done FROM planned_files JOIN units USING (unit)
        WHERE uri IN (SELECT uri FROM planned_files GROUP BY uri HAVING count(*) > 1)
    ), latest AS (
        SELECT uri, arg_max(etag, plan) AS latest_etag FROM shared GROUP BY uri
    ), dated AS (
        SELECT *, etag <> latest_etag OR plan < coalesce(max(plan)
            FILTER (WHERE etag <> latest_etag) OVER (PARTITION BY uri), -1) AS is_outdated
        FROM shared JOIN latest USING (uri)
    )
    SELECT uri, unit, is_outdated,
        coalesce(max(again) FILTER (WHERE is_done AND NOT is_outdated) OVER file, -1) AS done_again,
        bool_or(is_done AND etag <> '') OVER file AS is_labelled
    FROM dated WINDOW file AS (PARTITION BY uri)
"""
# One row for each file of a unit, beside its place in the listing. An etag of '' means absent.
_MATCHES = """
    WITH matches AS (
        SELECT unit, again, is_done, has_tombstone,
            shared.uri IS NOT NULL AS is_shared,
            coalesce(is_outdated, false) AS is_outdated,
            coalesce(done_again, CASE WHEN is_done THEN again ELSE -1 END) AS done_again,
            coalesce(is_labelled, is_done AND planned.etag <> '') AS is_labelled,
            planned.etag = '' AS was_absent,
            coalesce(listed.index, -1) AS index,
            coalesce(listed.etag = planned.etag, false) AS is_same,
            coalesce(listed.etag = '' AND planned.etag <> '' AND is_done, false) AS is_gone
        FROM planned_files planned JOIN units USING (unit)
            LEFT JOIN shared_files shared USING (uri, unit)
            LEFT JOIN listed_files listed USING (uri)
    ), judged AS (
        -- A row for an absent file must not come after rows of what there was.
        SELECT *, NOT is_done AND (is_outdated OR again <= done_again
            OR (index >= 0 AND NOT is_same) OR (was_absent AND is_labelled)) AS is_dead
        FROM matches
    )
    SELECT unit, index, again + 1 AS attempts, is_shared, is_same, is_gone, is_dead,
        (is_same AND is_done AND NOT is_outdated) OR is_gone AS is_covered,
        is_same AND (is_outdated OR has_tombstone) AS is_stale,
        is_same AND NOT (is_done OR is_dead OR has_tombstone) AS is_claimed
    FROM judged
"""
_MISSING = """
    SELECT unit, uri, etag FROM planned_files SEMI JOIN (SELECT unnest(?::INTEGER[]) AS unit)
        USING (unit) ANTI JOIN listed_files USING (uri)
"""


def add_listed_files(sources: Sequence[Source], *, first: int, database: ScratchDatabase) -> None:
    """Inserts the single files among sources of a listing; the first source has place `first`."""
    files = [(place, s) for place, s in enumerate(sources, first) if s.kind == "file"]
    rows = {
        "index": pa.array([place for place, _ in files], pa.int64()),
        "uri": pa.array([source.uri for _, source in files], pa.string()),
        "etag": pa.array([source.etag for _, source in files], pa.string()),
    }
    database.run("CREATE TABLE IF NOT EXISTS listed_files (index BIGINT, uri TEXT, etag TEXT)")
    database.insert("listed_files", pa.table(rows))


class FileDiff:
    """The state of the single files of a listing, by their place in it, and of units, by number."""

    def __init__(
        self, *, num_listed: int, previous: PreviousPlans, database: ScratchDatabase
    ) -> None:
        self._database = database
        self.is_covered = np.zeros(num_listed, bool)
        """True for files that a done unit holds as they are, or that are gone."""
        self.is_gone = np.zeros(num_listed, bool)
        """True for files that were labelled and are absent now."""
        self.again = np.zeros(num_listed, np.int16)
        """The value of `Source.again` if the file is planned now."""
        self._claims = np.full(num_listed, _NO_UNIT, np.int32)
        num_units = len(previous.unit_ids)
        self.is_met = np.zeros(num_units, bool)
        """True for units with a file that is listed as it was, or gone."""
        self.is_dead = np.zeros(num_units, bool)
        """True for units that can never be done: a file changed or is in another done unit."""
        self.is_claiming = np.zeros(num_units, bool)
        """True for undone units with a file that is listed as it was."""
        self.contested: dict[int, set[int]] = defaultdict(set)
        """By unit, the places of its files that another undone unit holds too."""
        previous.insert_units()
        database.run(_SHARED_FILES)
        self._read_matches()

    def claimed(self, pending: Iterable[int]) -> Flags:
        """Returns, by place in the listing, True for files that a pending unit holds."""
        is_pending = np.zeros(len(self.is_met) + 1, bool)  # the last one is for _NO_UNIT
        is_pending[list(pending)] = True
        is_claimed = is_pending[self._claims]
        for unit in set(pending) & self.contested.keys():
            is_claimed[list(self.contested[unit])] = True
        return is_claimed

    def missing(self, units: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """Returns uri and etag of files of these units that are not in the listing."""
        found: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for unit, uri, etag in self._database.rows(_MISSING, units) if units else ():
            found[unit].append((uri, etag))
        return found

    def _read_matches(self) -> None:
        most = np.zeros_like(self.again)
        is_repeated = np.zeros_like(self.is_covered)
        holders: dict[int, set[int]] = defaultdict(set)
        for rows in self._database.batches(_MATCHES):
            flags = {
                field.name: rows[field.name].to_numpy(zero_copy_only=False) for field in rows.schema
            }
            unit, index = flags["unit"], flags["index"]
            is_same, is_gone, is_claimed = flags["is_same"], flags["is_gone"], flags["is_claimed"]
            self.is_gone[index[is_gone]] = True
            self.is_covered[index[flags["is_covered"]]] = True
            # The same sources again would give a unit the name of the one with a tombstone.
            is_repeated[index[flags["is_covered"] | flags["is_stale"]]] = True
            np.maximum.at(most, index[is_same], flags["attempts"][is_same].astype(most.dtype))
            self.is_met[unit[is_same | is_gone]] = True
            self.is_dead[unit[flags["is_dead"]]] = True
            self.is_claiming[unit[is_claimed]] = True
            self._claims[index[is_claimed]] = unit[is_claimed]
            is_shared = is_claimed & flags["is_shared"]
            for place, number in zip(
                index[is_shared].tolist(), unit[is_shared].tolist(), strict=True
            ):
                holders[place].add(number)
        self.again = np.where(is_repeated, most, 0)
        for place, units in holders.items():
            for number in units if len(units) > 1 else ():
                self.contested[number].add(place)

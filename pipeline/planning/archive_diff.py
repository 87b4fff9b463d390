"""Compares the archives and Parquet files of a listing, or parts of them, with previous plans."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.corpora.sources import Source
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.planning.ranges import Ranges

ABSENT = ""
"""The etag of a source that is absent."""


class ArchiveDiff:
    """The archives of a listing, and the units that hold parts of them."""

    def __init__(self, sources: Sequence[Source], *, previous: PreviousPlans) -> None:
        self._previous = previous
        self.listed = {(source.uri, source.etag) for source in sources}
        self.planned = self.held_by(previous.archives)
        """The parts in all units of previous plans."""
        self._dropped = self.held_by(np.flatnonzero(previous.has_tombstone).tolist())
        self._labelled: set[str] = set()
        # By uri and etag, the plans that have a part of this version.
        self._plans: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for number, held in previous.archives.items():
            for source in held:
                plan_number = int(previous.plan_numbers[number])
                self._plans[source.uri][source.etag].add(plan_number)
                if previous.is_done[number] and source.etag != ABSENT:
                    self._labelled.add(source.uri)
        wanted = Ranges(sources)
        gone = {source.uri for source in sources if self.is_gone(source)}
        self.units_met = {
            number
            for number, held in previous.archives.items()
            if any(wanted.attempts(source) or source.uri in gone for source in held)
        }
        """Units that hold any listed part."""

    def is_gone(self, source: Source) -> bool:
        """Returns True if it is absent, and any part of it was labelled."""
        return source.etag == ABSENT and source.uri in self._labelled

    def held_by(self, units: Iterable[int]) -> Ranges:
        """Returns the parts that these units hold."""
        archives = self._previous.archives
        return Ranges(source for number in units for source in archives.get(number, ()))

    def covered(self, pending: Iterable[int]) -> Ranges:
        """Returns the parts in pending units, and those in done units that are not outdated."""
        held = self.held_by(pending)
        for number, sources in self._previous.archives.items():
            if self._previous.is_done[number]:
                held.add(s for s in sources if not self._is_outdated(number, s))
        return held

    def is_dead(self, unit: int, source: Source) -> bool:
        """Returns True if an undone unit's part is outdated, or its archive gone."""
        return self._is_outdated(unit, source) or self.is_gone(source)

    def again(self, source: Source) -> int:
        """Returns `Source.again` of the source, were it planned now.

        It is above 0 if an older version came back, or a unit that held it has a tombstone.
        """
        own = self._plans[source.uri][source.etag] if source.uri in self._plans else set()
        has_come_back = bool(own) and min(own) < self._latest_other(source)
        if has_come_back or self._dropped.attempts(source):
            return self.planned.attempts(source)
        return 0

    def _is_outdated(self, unit: int, source: Source) -> bool:
        return int(self._previous.plan_numbers[unit]) < self._latest_other(source)

    def _latest_other(self, source: Source) -> int:
        """Returns the latest plan with another version; -1 if there is none."""
        versions = self._plans.get(source.uri, {})
        others = (plans for etag, plans in versions.items() if etag != source.etag)
        return max((max(plans, default=-1) for plans in others), default=-1)

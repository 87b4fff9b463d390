"""Tracks which parts of archives are held by units, and which are left."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.corpora.sources import Source


@dataclass(frozen=True, order=True)
class _Range:
    start: float
    stop: float
    again: int


class Ranges:
    """A set of parts of sources."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._held: dict[tuple[str, str], list[_Range]] = defaultdict(list)
        self.add(sources)

    def add(self, sources: Iterable[Source]) -> None:
        for source in sources:
            held = _Range(source.start, _stop(source), source.again)
            self._held[source.uri, source.etag].append(held)

    def meet(self, source: Source) -> bool:
        """Returns True if a held part overlaps the source with as many attempts or more."""
        return self.attempts(source) > source.again

    def attempts(self, source: Source) -> int:
        """Returns the largest number of attempts at any part of the source."""
        held = self._held.get((source.uri, source.etag), ())
        overlapping = (r for r in held if r.start < _stop(source) and source.start < r.stop)
        return max((r.again + 1 for r in overlapping), default=0)

    def not_in(self, source: Source) -> Iterator[Source]:
        """Yields the parts of the source that are not held."""
        start: float = source.start
        for held in sorted(self._held.get((source.uri, source.etag), ())):
            if start < min(held.start, _stop(source)):
                stop = int(min(held.start, _stop(source)))
                yield source.sliced(start=int(start), stop=stop)
            start = max(start, held.stop)
        if start == source.start:
            yield source
        elif start < _stop(source):
            yield source.sliced(start=int(start), stop=source.stop)


def _stop(source: Source) -> float:
    return math.inf if source.stop is None else source.stop

"""Counts, by reason, files that could be images and get no row.

`corpora/corpus.py` counts listed files, `corpora/reading.py` members of archives;
`labelling/report.py` shows both together.
"""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

OF_NO_KNOWN_KIND = "of no known kind"
HIDDEN = "hidden"
WITHOUT_LOCATIONS = "without a column of images or of locations called uri"
OF_A_TABLE = "in the folder of a segment table"
BESIDE_AN_IMAGE = "beside the image of the same name"
LEFT_OUT = "with an ending that image_members leaves out"
EMPTY_ARCHIVE = "an archive without files"
PART_WITHOUT_IMAGES = "a part of an archive without images"
EMPTY_ROW = "a row with an empty list of images"

CHANGED_SINCE_NAMED = "changed since a manifest named a part of it"

_MOST_EXAMPLES = 5

SKIPPED = pa.list_(
    pa.struct([("reason", pa.string()), ("count", pa.int64()), ("examples", pa.list_(pa.string()))])
)
"""The Arrow type of `SkipCounts.to_rows`, which goes from process to process."""


@dataclass
class SkipCounts:
    """The number of skipped files, members and rows by reason, with the first locations of each."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, location: str, *, reason: str) -> None:
        self.counts[reason] += 1
        self._add_examples(reason, (location,))

    def add_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds the counts of another object, as `to_rows` returns them."""
        for row in rows:
            self.counts[row["reason"]] += row["count"]
            self._add_examples(row["reason"], row["examples"])

    def subtract(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Subtracts counts. Examples stay: whoever counts the same again names the same."""
        self.counts -= collections.Counter({row["reason"]: row["count"] for row in rows})

    def by_frequency(self) -> list[tuple[str, int, list[str]]]:
        """Returns reason, count and examples, the most frequent reason first."""
        return [
            (reason, count, self.examples[reason]) for reason, count in self.counts.most_common()
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        return [
            {"reason": reason, "count": count, "examples": examples}
            for reason, count, examples in self.by_frequency()
        ]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Returns `count` and `examples` by reason, for JSON; the most frequent reason first."""
        return {
            reason: {"count": count, "examples": examples}
            for reason, count, examples in self.by_frequency()
        }

    def _add_examples(self, reason: str, locations: Iterable[str]) -> None:
        kept = self.examples.setdefault(reason, [])
        for location in locations:
            if len(kept) < _MOST_EXAMPLES and location not in kept:
                kept.append(location)

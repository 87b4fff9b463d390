"""What lies in a corpus, could be an image and is none of its rows: counted by reason.

`corpus.py` counts what a listing shows, `reading.py` what archives hold; `labelling/report.py`
shows both together.
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
EMPTY_ROW = "a row with an empty list of images"

_MOST_EXAMPLES = 5

PASSED_OVER = pa.list_(
    pa.struct([("reason", pa.string()), ("count", pa.int64()), ("examples", pa.list_(pa.string()))])
)
"""As it goes from a process to another; see `PassedOver.to_rows`."""


@dataclass
class PassedOver:
    """Counts by reason, a few plain words as "of no known kind", with the first places of each."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, place: str, *, reason: str) -> None:
        self.counts[reason] += 1
        self._keep(reason, (place,))

    def add_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes what another one gives by `to_rows`."""
        for row in rows:
            self.counts[row["reason"]] += row["count"]
            self._keep(row["reason"], row["examples"])

    def take_back(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes counts back; examples stay, for whoever counts again names the same."""
        self.counts -= collections.Counter({row["reason"]: row["count"] for row in rows})

    def by_frequency(self) -> list[tuple[str, int, list[str]]]:
        """Reason, count and examples; the most frequent reason first."""
        return [
            (reason, count, self.examples[reason]) for reason, count in self.counts.most_common()
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        return [
            {"reason": reason, "count": count, "examples": examples}
            for reason, count, examples in self.by_frequency()
        ]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """For JSON: by reason `count` and `examples`, the most frequent reason first."""
        return {
            reason: {"count": count, "examples": examples}
            for reason, count, examples in self.by_frequency()
        }

    def _keep(self, reason: str, places: Iterable[str]) -> None:
        kept = self.examples.setdefault(reason, [])
        for place in places:
            if len(kept) < _MOST_EXAMPLES and place not in kept:
                kept.append(place)

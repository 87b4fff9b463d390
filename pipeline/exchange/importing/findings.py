"""Collects what an import could not take, by the rule that it breaks, with names."""

import io
import json
from dataclasses import dataclass, field

_SHOWN = 20


@dataclass
class ImportFindings:
    """Images of the file of which nothing was taken."""

    count: int = 0
    _shown: dict[str, list[str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _lines: io.BytesIO = field(default_factory=io.BytesIO)

    def add(self, rule: str, name: str, detail: str = "") -> None:
        """Adds an image.

        Args:
            rule: what it is or lacks, as `not in the table`; the same text groups images.
            name: what the file calls it.
        """
        self.count += 1
        self._counts[rule] = self._counts.get(rule, 0) + 1
        shown = self._shown.setdefault(rule, [])
        if len(shown) < _SHOWN:
            shown.append(f"{name} ({detail})" if detail else name)
        line = {"finding": rule, "name": name, "detail": detail}
        self._lines.write(json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n")

    def lines(self) -> list[str]:
        """Returns a line for each rule and up to 20 names below it."""
        lines = []
        for rule, names in self._shown.items():
            more = self._counts[rule] - len(names)
            lines.append(f"not taken, {rule}: {self._counts[rule]:,}")
            lines += [f"  {name}" for name in names]
            lines += [f"  and {more:,} more"] if more else []
        return lines

    def json_lines(self) -> bytes:
        """Returns all of them, a JSON object a line."""
        return self._lines.getvalue()

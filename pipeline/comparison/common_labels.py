"""Matches the labels of two tables by name: their models may number them differently."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class CommonLabels:
    """The labels of two tables by name: those of the first in its order, then the others."""

    names: tuple[str, ...]
    first: np.ndarray
    """The place in `names` of each label_id of the first table."""
    second: np.ndarray
    """The same of the second table."""

    @property
    def only_first(self) -> tuple[str, ...]:
        """Returns the names that the second table does not have."""
        has = set(self.second.tolist())
        return tuple(name for place, name in enumerate(self.names) if place not in has)

    @property
    def only_second(self) -> tuple[str, ...]:
        """Returns the names that the first table does not have."""
        has = set(self.first.tolist())
        return tuple(name for place, name in enumerate(self.names) if place not in has)


def common_labels(first: Sequence[str], second: Sequence[str]) -> CommonLabels:
    """Matches labels by name; labels of one name in one table count as one label.

    Raises:
        ValueError: no name is in both tables, so that nothing could agree.
    """
    names = tuple(dict.fromkeys([*first, *second]))
    if not set(first) & set(second):
        raise ValueError(
            "tables to compare must have a label of the same name, the first has "
            f"{', '.join(first[:5])}, the second {', '.join(second[:5])}"
        )
    place = {name: index for index, name in enumerate(names)}
    return CommonLabels(
        names=names,
        first=np.array([place[name] for name in first], np.int64),
        second=np.array([place[name] for name in second], np.int64),
    )

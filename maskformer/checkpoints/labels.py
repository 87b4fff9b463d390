"""New labels for a trained model: rows of the class head go by the names of their labels.

Takes the labels that a model was trained on and those that it is to learn; says which rows stay.
The last row stands for no object, and always stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from maskformer.configuration import check_label_ids


@dataclass(frozen=True, kw_only=True)
class LabelMatch:
    """The labels that two sets share, by name, exactly as it is written."""

    kept: tuple[str, ...]
    fresh: tuple[str, ...]
    old_rows: tuple[int, ...]
    """Of the kept labels, then of no object."""
    new_rows: tuple[int, ...]
    num_old: int

    def onto(
        self, fresh: Shaped[Tensor, "new *width"], *, trained: Shaped[Tensor, "old *width"]
    ) -> Shaped[Tensor, "new *width"]:
        """The fresh rows with the trained ones of the same names in their places."""
        joined = fresh.clone()
        joined[list(self.new_rows)] = trained[list(self.old_rows)].to(joined)
        return joined


def match_labels(old: Mapping[int, str], new: Sequence[str]) -> LabelMatch:
    """Matches labels by name; where a name is in the old set more than once, the first counts.

    Raises:
        ValueError: names are doubled among the new ones, or the old ones leave numbers out.
    """
    check_label_ids(old)
    if not new or len({*new}) != len(new) or isinstance(new, str):
        doubled = sorted({label for label in new if list(new).count(label) > 1})
        raise ValueError(
            f"labels must be a list of names, each once, got {doubled or new!r}"
            + (" more than once" if doubled else "")
        )
    row_of = {label: row for row, label in sorted(old.items(), reverse=True)}
    pairs = [(row_of[label], row) for row, label in enumerate(new) if label in row_of]
    pairs.append((len(old), len(new)))
    return LabelMatch(
        kept=tuple(label for label in new if label in row_of),
        fresh=tuple(label for label in new if label not in row_of),
        old_rows=tuple(row for row, _ in pairs),
        new_rows=tuple(row for _, row in pairs),
        num_old=len(old),
    )

"""Matching: which label of the data each label of the model is."""

import re
from collections.abc import Sequence

from pipeline.labelled.target import Labels

_PLACEHOLDER = re.compile(r"LABEL_\d+")
_SHOWN = 5


def match_labels(model: Sequence[str], data: Labels, *, task: str) -> tuple[int, ...]:
    """The data's label id for each label of the model.

    Labels are the same if their names are, in whatever order they stand. Where the model has no
    names, the numbers decide. Instances may be of the data's things alone.

    Raises:
        ValueError: labels differ.
    """
    if tuple(model) == data.names:
        return tuple(range(len(model)))
    if all(_PLACEHOLDER.fullmatch(name) for name in model):
        if len(model) == len(data.names):
            return tuple(range(len(model)))
        raise ValueError(
            f"the model has {len(model)} labels without names and the data has "
            f"{len(data.names)} labels; labels without names are matched by number, so that there "
            "must be as many"
        )
    ids = {name: index for index, name in enumerate(data.names)}
    wanted = set(ids)
    if task == "instance" and set(model) != wanted:
        wanted = {data.names[thing] for thing in data.things} or wanted
    is_clear = len(ids) == len(data.names) and len(set(model)) == len(model)
    if is_clear and set(model) == wanted:
        return tuple(ids[name] for name in model)
    unknown = [name for name in model if name not in wanted]
    missing = [name for name in data.names if name in wanted and name not in model]
    raise ValueError(
        "the labels of model and data must have the same names: "
        f"only the model has {_shown(unknown)}; only the data has {_shown(missing)}; "
        "evaluate on the data it was trained for, or write the model's names into --labels"
    )


def _shown(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more

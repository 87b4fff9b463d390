"""Matches the labels of a model with the labels of the data."""

import re
from collections.abc import Sequence

from pipeline.datasets.target import Labels

_PLACEHOLDER = re.compile(r"LABEL_\d+")
_SHOWN = 5


UNMATCHED = -1
"""Stands for a label of the model that the data does not have."""


def match_to_data_labels(model: Sequence[str], data: Labels, *, task: str) -> tuple[int, ...]:
    """Returns the data's label id for each label of the model, or `UNMATCHED`.

    Labels match by name, in any order; by number if the model has no names. The data may have only
    some of the model's labels: predictions of the others are not scored. For the task instance,
    only the data's things need to be labels of the model.

    Raises:
        ValueError: the data has labels that the model does not have.
    """
    if tuple(model) == data.names:
        return tuple(range(len(model)))
    if all(_PLACEHOLDER.fullmatch(name) for name in model):
        if len(model) == len(data.names):
            return tuple(range(len(model)))
        raise ValueError(
            f"the model has {len(model)} labels without names and the data has "
            f"{len(data.names)} labels; labels without names are matched by number, so both must "
            "have the same number of labels"
        )
    ids = {name: index for index, name in enumerate(data.names)}
    wanted = set(ids)
    if task == "instance" and not wanted <= set(model):
        wanted = {data.names[thing] for thing in data.things} or wanted
    if len(ids) < len(data.names) or len(set(model)) < len(model):
        raise ValueError(
            "two labels have the same name, and the orders of model and data differ; give each "
            "label a name of its own"
        )
    if wanted <= set(model):
        return tuple(ids[name] if name in wanted else UNMATCHED for name in model)
    unknown = [name for name in model if name not in wanted]
    missing = [name for name in data.names if name in wanted and name not in model]
    raise ValueError(
        "the labels of the data must be labels of the model, by their names: "
        f"only the data has {_shown(missing)}; only the model has {_shown(unknown)}; "
        "evaluate on the data it was trained for, or write the model's names into --labels"
    )


def stuff_to_fuse(
    data_label_of: Sequence[int], *, things: frozenset[int], model_stuff: Sequence[int] = ()
) -> tuple[int, ...]:
    """Returns the labels of a model that are stuff by the data; by the model if unmatched."""
    return tuple(
        label
        for label, data_label in enumerate(data_label_of)
        if (label in model_stuff if data_label == UNMATCHED else data_label not in things)
    )


def unmatched_lines(model: Sequence[str], data_label_of: Sequence[int]) -> list[str]:
    """Returns a line for people that names the labels of the model that are not scored."""
    others = [name for name, label in zip(model, data_label_of, strict=True) if label == UNMATCHED]
    if not others:
        return []
    return [
        f"the data has {len(model) - len(others)} of the model's {len(model)} labels; predictions "
        f"of the others are not scored: {_shown(others)}"
    ]


def _shown(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more

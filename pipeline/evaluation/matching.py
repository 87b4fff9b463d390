"""Matching: which label of the data each label of the model is."""

import re
from collections.abc import Sequence

from pipeline.datasets.target import Labels

_PLACEHOLDER = re.compile(r"LABEL_\d+")
_SHOWN = 5


UNMATCHED = -1
"""In place of the data's label, for a label of the model that the data has not."""


def match_to_data_labels(model: Sequence[str], data: Labels, *, task: str) -> tuple[int, ...]:
    """The data's label id for each label of the model, `UNMATCHED` where it has none.

    Labels are the same if their names are, in whatever order they stand. Where the model has no
    names, the numbers decide. The data's may be some of the model's; what is predicted of the
    others is not judged. Instances may be of the data's things alone.

    Raises:
        ValueError: the data has labels that the model has not.
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
    if task == "instance" and not wanted <= set(model):
        wanted = {data.names[thing] for thing in data.things} or wanted
    if len(ids) < len(data.names) or len(set(model)) < len(model):
        raise ValueError(
            "labels with the same names twice can only be matched in one order, and model and data "
            "differ; give each label a name of its own"
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
    """The labels of a model that are stuff by the data, or, where it has them not, by the model."""
    return tuple(
        label
        for label, data_label in enumerate(data_label_of)
        if (label in model_stuff if data_label == UNMATCHED else data_label not in things)
    )


def unmatched_lines(model: Sequence[str], data_label_of: Sequence[int]) -> list[str]:
    """A line for people on the labels of the model that are not judged."""
    others = [name for name, label in zip(model, data_label_of, strict=True) if label == UNMATCHED]
    if not others:
        return []
    return [
        f"the data has {len(model) - len(others)} of the model's {len(model)} labels; what is "
        f"predicted of the others is not judged: {_shown(others)}"
    ]


def _shown(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more

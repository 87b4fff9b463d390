"""Mixes several data sets into one, whose labels are joined by name.

Training learns from the mixture as from any data set; `training/sampler.py` knows how often to draw
from each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.datasets.dataset import TASKS, LabelledImages, Truths, rows_schema
from pipeline.datasets.target import LabelError, Labels, Target
from pipeline.runtime.wording import count
from pipeline.storage import Storage

_ROWS = rows_schema(("part", pa.int32()), ("row", pa.int64()))
_TRUTH_OF: Mapping[str, Truths] = {
    "panoptic": "segments", "semantic": "labels", "instance": "instances",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MixedTruth:
    """Reads the labels of an image from the data set that it is of."""

    parts: tuple[LabelledImages, ...]
    label_ids: tuple[tuple[int, ...], ...]
    """For each data set, the ids of its labels in the mixture."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        part = row["part"]
        target = self.parts[part].target(row["row"])
        label_ids = self.label_ids[part]
        segments = (replace(each, label_id=label_ids[each.label_id]) for each in target.segments)
        return replace(target, segments=tuple(segments))


def mixed_images(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Returns the images of all data sets, one after the other.

    The labels are those of the first, and behind them all that only others have.

    Raises:
        LabelError: there is no task that all of them can teach, or a label is a thing in one and
            stuff in another.
    """
    first = parts[0]
    tasks = [task for task in _TRUTH_OF if all(task in TASKS[part.truths] for part in parts)]
    if not tasks:
        found = "; ".join(f"{part.uri}: {' or '.join(TASKS[part.truths])}" for part in parts)
        raise LabelError(f"data sets that are mixed must teach the same task, got {found}")
    names = list(dict.fromkeys(name for part in parts for name in part.labels.names))
    ids = {name: number for number, name in enumerate(names)}
    label_ids = tuple(tuple(ids[name] for name in part.labels.names) for part in parts)
    rows = [
        pa.table(
            [
                part.rows["image_id"],
                part.rows["image"],
                pa.repeat(pa.scalar(number, pa.int32()), len(part)),
                pa.array(range(len(part)), pa.int64()),
            ],
            schema=_ROWS,
        )
        for number, part in enumerate(parts)
    ]
    sizes = "; ".join(f"{count(len(part), 'image')} of {part.uri}" for part in parts)
    return replace(
        first,
        uri=" and ".join(part.uri for part in parts),
        truths=_TRUTH_OF[tasks[0]],
        labels=Labels(names=tuple(names), things=_things(parts, ids=ids)),
        rows=pa.concat_tables(rows),
        truth=MixedTruth(parts=tuple(parts), label_ids=label_ids),
        notes=(f"mixed: {sizes}", *(note for part in parts for note in part.notes)),
    )


def _things(parts: Sequence[LabelledImages], *, ids: Mapping[str, int]) -> frozenset[int]:
    """Returns the ids of things; a data set that does not tell things leaves it to the others."""
    is_thing: dict[str, str] = {}
    is_stuff: dict[str, str] = {}
    for part in parts:
        if part.tells_things:
            for number, name in enumerate(part.labels.names):
                (is_thing if number in part.labels.things else is_stuff).setdefault(name, part.uri)
    if both := sorted(is_thing.keys() & is_stuff.keys()):
        name = both[0]
        raise LabelError(
            f"{name} is a thing in {is_thing[name]} and stuff in {is_stuff[name]}; data sets that "
            "are mixed must agree"
        )
    return frozenset(ids[name] for name in is_thing)

"""Selects the masks that the network is to find in an image, by the task.

Takes the targets of `datasets/`; `augmentation.py` augments the maps, and `samples.py` makes masks
of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, Integer

from maskformer import Runs, rle_runs
from pipeline.datasets.dataset import TASKS, LabelledImages
from pipeline.datasets.id_maps import look_up_ids
from pipeline.datasets.target import Target, TrueSegment, objects_target
from pipeline.evaluation.matching import UNMATCHED, match_to_data_labels
from pipeline.training.settings import Task

_TASK_OF = {"labels": "semantic", "segments": "panoptic", "instances": "instance"}


@dataclass(frozen=True, kw_only=True)
class TargetMap:
    """The masks to find: pixels with the id i > 0 are in a mask of the label `label_of[i]`.

    Where masks overlap, `masks` holds each of them whole, from id 1 on, and the map shows the small
    ones on top.
    """

    ids: Integer[np.ndarray, "height width"]
    """0 is void."""
    label_of: Int64[np.ndarray, " ids"]
    """-1 where no mask has the id."""
    masks: tuple[Runs, ...] | None = None
    """None where the map shows the whole of each."""


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """Turns an image's true segments into the masks to find."""

    task: Task
    label_ids: tuple[int, ...]
    """The model's label id by the data's; -1 for labels that the task does not learn."""

    def learns(self, segment: TrueSegment) -> bool:
        """True if the network is to find a mask of the segment."""
        # A crowd is many objects in one mask, which no single query should match.
        is_one = self.task == "semantic" or not segment.is_crowd
        return is_one and self.label_ids[segment.label_id] >= 0

    def __call__(self, target: Target) -> TargetMap:
        kept = [segment for segment in target.segments if self.learns(segment)]
        if self.task == "semantic":
            new_ids = [self.label_ids[segment.label_id] + 1 for segment in kept]
        else:
            new_ids = list(range(1, len(kept) + 1))
        if target.is_overlapping:
            return self._of_objects(kept, size=target.size)
        highest = max([0, *new_ids])
        # torch has no unsigned types of more than a byte.
        new_id_of = np.zeros(
            max([int(target.ids.max(initial=0)), *(segment.id for segment in kept)]) + 1,
            np.uint8 if highest < 256 else np.int32,
        )
        label_of = np.full(highest + 1, -1, np.int64)
        for segment, new_id in zip(kept, new_ids, strict=True):
            new_id_of[segment.id] = new_id
            label_of[new_id] = self.label_ids[segment.label_id]
        return TargetMap(ids=look_up_ids(new_id_of, target.ids), label_of=label_of)

    def _of_objects(self, kept: Sequence[TrueSegment], *, size: tuple[int, int]) -> TargetMap:
        """Makes the map of objects that may overlap; others take no pixel from learnt ones."""
        height, width = size
        target = objects_target(
            [replace(segment, id=number) for number, segment in enumerate(kept, start=1)], size=size
        )
        masks = tuple(rle_runs(each.rle or "", height=height, width=width) for each in kept)
        return TargetMap(
            ids=target.ids if target.ids.dtype == np.uint8 else target.ids.astype(np.int32),
            label_of=np.array([-1, *(self.label_ids[each.label_id] for each in kept)], np.int64),
            masks=masks if target.is_overlapping else None,
        )


def target_rule(
    dataset: LabelledImages, *, task: Task | None, model_labels: Sequence[str] | None
) -> TargetRule:
    """Returns the rule for a data set.

    Args:
        task: None for the most detailed task that the labels can teach.
        model_labels: the model's label names by id; None where it has the data's.

    Raises:
        ValueError: the data cannot teach the task, or labels differ.
    """
    chosen: Task = task or _TASK_OF[dataset.truths]  # type: ignore[assignment]
    if chosen not in TASKS[dataset.truths]:
        raise ValueError(
            f"{dataset.uri} has {dataset.truths} and cannot teach the task {chosen}; it can "
            f"teach {' and '.join(TASKS[dataset.truths])}"
        )
    things = dataset.labels.things
    if chosen == "instance" and not things:
        raise ValueError(
            f"{dataset.uri} has no things among its labels, and the task instance learns nothing "
            "else; name them in labels.json"
        )
    names = dataset.labels.names if model_labels is None else tuple(model_labels)
    label_ids = [-1] * len(dataset.labels.names)
    for model_id, data_id in enumerate(match_to_data_labels(names, dataset.labels, task=chosen)):
        if data_id != UNMATCHED and (chosen != "instance" or data_id in things):
            label_ids[data_id] = model_id
    return TargetRule(task=chosen, label_ids=tuple(label_ids))

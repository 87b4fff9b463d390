"""Checking: whether labelled images can be learnt from, before the first step.

Every photograph and every map is read once, some at a time. `datasets/checking.py` looks at each;
this file looks at what they teach together.
"""

from collections.abc import Iterable

from pipeline.datasets.checking import Census, check_images, hidden_label, void_share
from pipeline.datasets.target import LabelError
from pipeline.training.samples import TrainingData

_SHOWN = 5
_CROWDS = "which are not learnt (iscrowd 1, as CVAT writes for what is drawn with a brush)"


def check_training_data(data: TrainingData, *, indices: Iterable[int] | None = None) -> Census:
    """Reads all images and targets, or some, and counts what there is to learn.

    Raises:
        LabelError: an image is no good, and which; or no image shows a label that is learnt.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    census = check_images(data.dataset, indices=indices, counts=data.rule.learns)
    if not census.images_of_label and census.num_crowds:
        raise LabelError(
            f"{data.dataset.uri}: all {census.num_crowds:,} objects of {census.num_images:,} "
            f"images are crowds, {_CROWDS}; write 0 for the iscrowd of each that is one object"
        )
    if not census.images_of_label:
        raise LabelError(
            f"{data.dataset.uri}: none of {census.num_images} images shows a label that the task "
            f"{data.rule.task} learns; see labels and ignore_index"
        )
    if (hidden := hidden_label(census, dataset=data.dataset)) is not None:
        raise LabelError(f"{data.dataset.uri}: {hidden}")
    return census


def census_lines(
    census: Census, *, data: TrainingData, num_queries: int | None = None
) -> list[str]:
    """What was counted, for people: a line on the images, and one on each thing to know of what
    is not learnt.

    Args:
        num_queries: how many masks the model finds in an image; None where that does not matter.
    """
    names = data.dataset.labels.names
    learnt = [label for label, model_id in enumerate(data.rule.label_ids) if model_id >= 0]
    shown = [label for label in learnt if label in census.images_of_label]
    lines = [
        f"{census.num_images} images show {len(shown)} of {len(learnt)} labels; "
        f"{census.num_empty} show none"
    ]
    if unseen := [names[label] for label in learnt if label not in census.images_of_label]:
        more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
        lines.append(f"no image shows {', '.join(unseen[:_SHOWN])}{more}: they stay unlearnt")
        if census.num_void_pixels and (values := data.dataset.values) is not None:
            lines.append(
                f"what counts for nothing (ignore_index {values.ignore_index}) covers "
                f"{100 * void_share(census):.3g} % of the pixels"
            )
    if census.num_crowds:
        total = census.num_crowds + census.num_segments
        lines.append(f"{census.num_crowds:,} of {total:,} objects are crowds, {_CROWDS}")
    has_objects = data.rule.task != "semantic"
    if num_queries is not None and has_objects and census.fullest[0] > num_queries:
        lines.append(_crowded(census, num_queries=num_queries))
    return lines


def _crowded(census: Census, *, num_queries: int) -> str:
    """That an image has more masks than the model can find."""
    full = {n: images for n, images in census.images_of_number.items() if n > num_queries}
    lost = sum((number - num_queries) * images for number, images in full.items())
    num_images = sum(full.values())
    most, fullest = census.fullest
    return (
        f"the model finds at most {num_queries} objects in an image (num_queries), and "
        f"{num_images:,} of {census.num_images:,} images "
        f"{'has' if num_images == 1 else 'have'} more, {fullest} {most}: without a crop "
        f"{lost:,} of {census.num_segments:,} objects are not learnt"
    )

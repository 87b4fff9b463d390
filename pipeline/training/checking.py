"""Checks before the first step that labelled images can be learnt from.

`datasets/checking.py` reads every photograph and every map once; this file checks their counts.
"""

from collections.abc import Iterable

from pipeline.datasets.checking import Census, check_images, hidden_label, void_share
from pipeline.datasets.target import LabelError
from pipeline.runtime.wording import count, list_some
from pipeline.training.samples import TrainingData

_CROWDS = "not learnt (iscrowd 1, as CVAT writes for masks drawn with a brush)"


def check_training_data(data: TrainingData, *, indices: Iterable[int] | None = None) -> Census:
    """Reads all images and targets, or those of `indices`, and counts what there is to learn.

    Raises:
        LabelError: an image is damaged; or no image shows a label that is learnt.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    census = check_images(data.dataset, indices=indices, counts=data.rule.learns)
    if not census.images_of_label and census.num_crowds:
        raise LabelError(
            f"{data.dataset.uri}: all {count(census.num_crowds, 'object')} of "
            f"{count(census.num_images, 'image')} are crowds and are {_CROWDS}; write 0 for the "
            "iscrowd of each that is one object"
        )
    if not census.images_of_label:
        raise LabelError(
            f"{data.dataset.uri}: none of {count(census.num_images, 'image')} shows a label that "
            f"the task {data.rule.task} learns; see --labels and --ignore_index"
        )
    if (hidden := hidden_label(census, dataset=data.dataset)) is not None:
        raise LabelError(f"{data.dataset.uri}: {hidden}")
    return census


def census_lines(
    census: Census, *, data: TrainingData, num_queries: int | None = None
) -> list[str]:
    """Writes the census in lines for people: the images first, then all that is not learnt.

    Args:
        num_queries: the most masks that the model finds in an image; None to leave that line out.
    """
    names = data.dataset.labels.names
    learnt = [label for label, model_id in enumerate(data.rule.label_ids) if model_id >= 0]
    shown = [label for label in learnt if label in census.images_of_label]
    show = "shows" if census.num_images == 1 else "show"
    empty = count(census.num_empty, "image")
    lines = [
        f"{count(census.num_images, 'image')} {show} {len(shown)} of "
        f"{count(len(learnt), 'label')}; {empty} {'shows' if census.num_empty == 1 else 'show'} "
        "none"
    ]
    if unseen := [names[label] for label in learnt if label not in census.images_of_label]:
        lines.append(f"no image shows {list_some(unseen)}: the model cannot learn them")
        if census.num_void_pixels and (values := data.dataset.values) is not None:
            lines.append(
                f"{100 * void_share(census):.3g} % of the pixels are ignored "
                f"(ignore_index {values.ignore_index})"
            )
    if census.num_crowds:
        total = count(census.num_crowds + census.num_segments, "object")
        are = "is a crowd and is" if census.num_crowds == 1 else "are crowds and are"
        lines.append(f"{census.num_crowds:,} of {total} {are} {_CROWDS}")
    has_objects = data.rule.task != "semantic"
    if num_queries is not None and has_objects and census.fullest[0] > num_queries:
        lines.append(_crowded(census, num_queries=num_queries))
    return lines


def _crowded(census: Census, *, num_queries: int) -> str:
    """Tells how many objects are lost because images have more than the model can find."""
    full = {n: images for n, images in census.images_of_number.items() if n > num_queries}
    lost = sum((number - num_queries) * images for number, images in full.items())
    num_images = sum(full.values())
    most, fullest = census.fullest
    return (
        f"the model finds at most {count(num_queries, 'object')} in an image (num_queries), and "
        f"{num_images:,} of {count(census.num_images, 'image')} "
        f"{'has' if num_images == 1 else 'have'} more ({fullest} has {most}): without a crop, "
        f"{lost:,} of {count(census.num_segments, 'object')} {'is' if lost == 1 else 'are'} not "
        "learnt"
    )

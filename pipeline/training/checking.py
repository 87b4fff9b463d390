"""Checking: whether labelled images can be learnt from, before the first step.

Every photograph and every map is read once, some at a time. `labelled/checking.py` looks at each;
this file looks at what they teach together.
"""

from collections.abc import Iterable

from pipeline.labelled.checking import Census, check_images, hidden_label, void_share
from pipeline.labelled.target import LabelError
from pipeline.training.samples import TrainingData

_SHOWN = 5


def check_training_data(data: TrainingData, *, indices: Iterable[int] | None = None) -> Census:
    """Reads all images and targets, or some, and counts what there is to learn.

    Raises:
        LabelError: an image is no good, and which; or no image shows a label that is learnt.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    census = check_images(data.dataset, indices=indices)
    learnt = {label for label, model_id in enumerate(data.rule.label_ids) if model_id >= 0}
    if not learnt & census.images_of_label.keys():
        raise LabelError(
            f"{data.dataset.uri}: none of {census.num_images} images shows a label that the task "
            f"{data.rule.task} learns; see labels and ignore_index"
        )
    if (hidden := hidden_label(census, dataset=data.dataset)) is not None:
        raise LabelError(f"{data.dataset.uri}: {hidden}")
    return census


def census_lines(census: Census, *, data: TrainingData) -> list[str]:
    """What was counted, for people: a line on the images, and one on labels that nothing shows."""
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
    return lines

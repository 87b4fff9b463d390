"""Checking: whether photographs and targets fit, before anything is built on them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.corpora.decoding import ImageError, image_size
from pipeline.labelled.dataset import LabelledImage, LabelledImages
from pipeline.labelled.target import LabelError, Target
from pipeline.threads import map_ahead

_AT_ONCE = 16
_TURNED = (
    "; if its EXIF orientation turns it, they were drawn on what is stored: turn them too, or "
    "store the photograph upright and without that tag"
)


@dataclass(frozen=True, kw_only=True)
class Census:
    """What a data set holds, counted over images that were read."""

    num_images: int
    num_empty: int
    """Images without a single segment."""
    images_of_label: dict[int, int]
    """How many images show each label; labels that none shows are not there."""
    pixels_of_label: dict[int, int]
    num_void_pixels: int
    """Pixels that count for nothing."""


def check_images(dataset: LabelledImages, *, indices: Iterable[int] | None = None) -> Census:
    """Reads all images and targets, or some, and counts labels.

    Raises:
        LabelError: of the first image that is no good.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    num_images = num_empty = num_void = 0
    images_of, pixels_of = Counter[int](), Counter[int]()
    for target in _checked(dataset, indices if indices is not None else range(len(dataset))):
        num_images += 1
        num_empty += not target.segments
        counts = np.bincount(target.ids.ravel(), minlength=1)
        num_void += int(counts[0])
        images_of.update({segment.label_id for segment in target.segments})
        for segment in target.segments:
            shown = segment.id < len(counts)
            pixels_of[segment.label_id] += int(counts[segment.id]) if shown else 0
    return Census(
        num_images=num_images,
        num_empty=num_empty,
        images_of_label=dict(sorted(images_of.items())),
        pixels_of_label=dict(sorted(pixels_of.items())),
        num_void_pixels=num_void,
    )


def hidden_label(census: Census, *, dataset: LabelledImages) -> str | None:
    """What is to be said of label maps that show one label and, beside it, only what counts for
    nothing by default, as those of 0 and 255 do; None of others."""
    values, names = dataset.values, dataset.labels.names
    shown = [label for label, count in census.pixels_of_label.items() if count]
    is_hidden = census.num_void_pixels and len(shown) == 1 and len(names) > 1
    if values is None or values.is_ignore_index_given or values.colours or not is_hidden:
        return None
    unseen = names[1 - shown[0] if len(names) == 2 else int(shown[0] == 0)]
    void = f"{100 * void_share(census):.3g} % of the pixels"
    return (
        f"label maps show {names[shown[0]]} and no other label, but the ignore_index "
        f"{values.ignore_index} in {void}; if that is {unseen}, say so in labels.json: "
        f'{{"{shown[0]}": "{names[shown[0]]}", "{values.ignore_index}": "{unseen}"}}; if it counts '
        f"for nothing, say --ignore_index {values.ignore_index}"
    )


def void_share(census: Census) -> float:
    """The share of pixels that count for nothing, in [0, 1]."""
    pixels = census.num_void_pixels + sum(census.pixels_of_label.values())
    return census.num_void_pixels / pixels if pixels else 0.0


def check_image(labelled: LabelledImage, *, max_pixels: int) -> Target:
    """The target of an image whose photograph, by its header, is of the same size.

    Raises:
        LabelError: it is not, or cannot be read.
    """
    image = labelled.image
    try:
        if image.error is not None:
            raise image.error
        size = image_size(image.data or b"", name=image.name, max_pixels=max_pixels)
    except ImageError as error:
        raise LabelError(f"image {image.image_id}: {error}") from error
    check_size(image.image_id, size=size, target=labelled.target, place=image.name)
    return labelled.target


def check_size(image_id: str, *, size: tuple[int, int], target: Target, place: str) -> None:
    """Raises LabelError where image and target differ in size: one of them is not the other's."""
    if size != target.size:
        is_turned = size == target.size[::-1]
        raise LabelError(
            f"image {image_id}: the photograph has {size[0]} x {size[1]} pixels upright and its "
            f"labels {target.size[0]} x {target.size[1]}, they must be of one size"
            + (_TURNED if is_turned else "")
            + f" ({place})"
        )


def _checked(dataset: LabelledImages, indices: Iterable[int]) -> Iterator[Target]:
    """The targets in order, read some at a time."""

    def check(index: int) -> Target:
        return check_image(dataset[index], max_pixels=dataset.reading.max_image_pixels)

    return map_ahead(check, indices, num_threads=_AT_ONCE, ahead=2 * _AT_ONCE)

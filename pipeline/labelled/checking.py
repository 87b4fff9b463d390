"""Checking: whether photographs and targets fit, before anything is built on them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.corpora.decoding import ImageError, image_size, orientation
from pipeline.corpora.reading import EncodedImage
from pipeline.labelled.dataset import LabelledImage, LabelledImages
from pipeline.labelled.target import LabelError, Target, turned
from pipeline.threads import map_ahead

_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Census:
    """What a data set holds, counted over images that were read."""

    num_images: int
    num_empty: int
    """Images without a single segment."""
    images_of_label: dict[int, int]
    """How many images show each label; labels that none shows are not there."""
    pixels_of_label: dict[int, int]


def check_images(dataset: LabelledImages, *, indices: Iterable[int] | None = None) -> Census:
    """Reads all images and targets, or some, and counts labels.

    Raises:
        LabelError: of the first image that is no good.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    num_images = num_empty = 0
    images_of, pixels_of = Counter[int](), Counter[int]()
    for target in _checked(dataset, indices if indices is not None else range(len(dataset))):
        num_images += 1
        num_empty += not target.segments
        counts = np.bincount(target.ids.ravel(), minlength=1)
        images_of.update({segment.label_id for segment in target.segments})
        for segment in target.segments:
            shown = segment.id < len(counts)
            pixels_of[segment.label_id] += int(counts[segment.id]) if shown else 0
    return Census(
        num_images=num_images,
        num_empty=num_empty,
        images_of_label=dict(sorted(images_of.items())),
        pixels_of_label=dict(sorted(pixels_of.items())),
    )


def check_image(labelled: LabelledImage, *, max_pixels: int) -> Target:
    """The target of an image, which by the header of the photograph is of the same size.

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
    return fitted(labelled.target, size=size, photo=lambda: image, max_pixels=max_pixels)


def fitted(
    target: Target, *, size: tuple[int, int], photo: Callable[[], EncodedImage], max_pixels: int
) -> Target:
    """The target in the size of the photograph, which is upright.

    Labels that were drawn on a photograph as it is stored lie as it does. Their size tells, where
    it is the photograph's with height and width exchanged: then they are put upright with it. All
    others are taken as upright; of a square, or a photograph on its head, nothing tells.

    Args:
        size: of the upright photograph.
        photo: gives the photograph, which is only looked at where sizes differ.

    Raises:
        LabelError: they differ in size: one of them is not the other's.
    """
    if size == target.size:
        return target
    image = photo()
    stored = 1
    if size == target.size[::-1] and image.data:
        stored = orientation(image.data, name=image.name, max_pixels=max_pixels)
    if stored in (5, 6, 7, 8):
        return turned(target, orientation=stored)
    raise LabelError(
        f"image {image.image_id}: the photograph has {size[0]} x {size[1]} pixels upright and its "
        f"labels {target.size[0]} x {target.size[1]}, they must be of one size ({image.name})"
    )


def _checked(dataset: LabelledImages, indices: Iterable[int]) -> Iterator[Target]:
    """The targets in order, read some at a time."""

    def check(index: int) -> Target:
        return check_image(dataset[index], max_pixels=dataset.reading.max_image_pixels)

    return map_ahead(check, indices, num_threads=_AT_ONCE, ahead=2 * _AT_ONCE)

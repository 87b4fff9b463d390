"""Checks that photographs and targets fit, and counts what a data set holds."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pipeline.corpora.decoding import ImageError, image_size, orientation
from pipeline.corpora.reading import EncodedImage
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.id_maps import count_ids
from pipeline.datasets.target import LabelError, Target, TrueSegment, turn_upright
from pipeline.runtime.allocator import return_memory
from pipeline.runtime.threads import Budget, map_ahead

Counts: TypeAlias = Callable[[TrueSegment], bool]
"""Tells whether a segment counts."""

_AT_ONCE = 16

# Making a target takes at most so much: a map over three channels, as bytes and as ids.
_BYTES_PER_PIXEL = 16
_MEMORY = Budget(1 << 30)
"""Memory for the targets of all threads."""


@dataclass(frozen=True, kw_only=True)
class Census:
    """The counts of a data set's images, labels and segments, over the images that were read."""

    num_images: int = 0
    num_empty: int = 0
    """Images without a single segment that counts."""
    images_of_label: Mapping[int, int] = field(default_factory=dict)
    """The number of images that show each label; labels that no image shows are missing."""
    pixels_of_label: Mapping[int, int] = field(default_factory=dict)
    num_pixels: int = 0
    num_void_pixels: int = 0
    """Pixels that nobody labelled, or that are to be ignored."""
    num_crowds: int = 0
    """Crowds that do not count."""
    images_of_number: Mapping[int, int] = field(default_factory=dict)
    """The number of images by the number of segments in them that count."""
    fullest: tuple[int, str] = (0, "")
    """The largest number of segments that count in an image, and that image."""

    @classmethod
    def of_image(cls, image_id: str, target: Target, *, counts: Counts) -> "Census":
        segments = [segment for segment in target.segments if counts(segment)]
        pixels_of_id = count_ids(target.ids, at_least=1 + max([0, *(s.id for s in segments)]))
        pixels = Counter[int]()
        for segment in segments:
            pixels[segment.label_id] += int(pixels_of_id[segment.id])
        return cls(
            num_images=1,
            num_empty=not segments,
            images_of_label=dict.fromkeys(sorted(pixels), 1),
            pixels_of_label=dict(sorted(pixels.items())),
            num_pixels=target.ids.size,
            num_void_pixels=int(pixels_of_id[0]),
            num_crowds=sum(each.is_crowd and not counts(each) for each in target.segments),
            images_of_number={len(segments): 1},
            fullest=(len(segments), image_id),
        )

    @property
    def num_segments(self) -> int:
        """Returns the number of segments that count."""
        return sum(number * images for number, images in self.images_of_number.items())

    def with_others(self, others: "Census") -> "Census":
        """Returns the sum of both."""
        return Census(
            num_images=self.num_images + others.num_images,
            num_empty=self.num_empty + others.num_empty,
            images_of_label=Counter(self.images_of_label) + Counter(others.images_of_label),
            pixels_of_label=Counter(self.pixels_of_label) + Counter(others.pixels_of_label),
            num_pixels=self.num_pixels + others.num_pixels,
            num_void_pixels=self.num_void_pixels + others.num_void_pixels,
            num_crowds=self.num_crowds + others.num_crowds,
            images_of_number=Counter(self.images_of_number) + Counter(others.images_of_number),
            fullest=max(self.fullest, others.fullest, key=lambda most: most[0]),
        )


def check_images(
    dataset: LabelledImages,
    *,
    indices: Iterable[int] | None = None,
    counts: Counts = lambda segment: True,
) -> Census:
    """Reads all images and targets, or those of `indices`, and counts.

    Args:
        counts: tells whether a segment counts.

    Raises:
        LabelError: an image is damaged, or does not fit its labels; names the first.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    return_memory()
    total = Census()
    some = indices if indices is not None else range(len(dataset))
    for counted in _counted(dataset, some, counts=counts):
        total = total.with_others(counted)
    return total


def hidden_label(census: Census, *, dataset: LabelledImages) -> str | None:
    """Returns a complaint about label maps that show one label and beside it only the default
    ignore_index, as maps of 0 and 255 do; None for other maps."""
    values, names = dataset.values, dataset.labels.names
    shown = [label for label, count in census.pixels_of_label.items() if count]
    is_hidden = census.num_void_pixels and len(shown) == 1 and len(names) > 1
    if values is None or values.is_ignore_index_given or values.colours or not is_hidden:
        return None
    unseen = names[1 - shown[0] if len(names) == 2 else int(shown[0] == 0)]
    void = f"{100 * void_share(census):.3g} % of the pixels"
    return (
        f"label maps show {names[shown[0]]} and no other label, but the ignore_index "
        f"{values.ignore_index} in {void}; if that is {unseen}, write so into labels.json: "
        f'{{"{shown[0]}": "{names[shown[0]]}", "{values.ignore_index}": "{unseen}"}}; if it is '
        f"to be ignored, add --ignore_index {values.ignore_index}"
    )


def void_share(census: Census) -> float:
    """Returns the share of pixels that are ignored, in [0, 1]."""
    return census.num_void_pixels / census.num_pixels if census.num_pixels else 0.0


def _counted(
    dataset: LabelledImages, indices: Iterable[int], *, counts: Counts
) -> Iterator[Census]:
    """Yields the census of each image, in order; no target is kept, since targets are large."""

    def count(index: int) -> Census:
        image = dataset.image(index)
        size = _photo_size(image, max_pixels=dataset.reading.max_image_pixels)
        with _MEMORY.part(_BYTES_PER_PIXEL * size[0] * size[1]):
            target = fitted(
                dataset.target(index),
                size=size,
                photo=lambda: image,
                max_pixels=dataset.reading.max_image_pixels,
            )
            return Census.of_image(image.image_id, target, counts=counts)

    return map_ahead(count, indices, num_threads=_AT_ONCE, ahead=2 * _AT_ONCE)


def _photo_size(image: EncodedImage, *, max_pixels: int) -> tuple[int, int]:
    """Reads the photograph's size from its header.

    Raises:
        LabelError: it cannot be read.
    """
    try:
        if image.error is not None:
            raise image.error
        return image_size(image.data or b"", name=image.name, max_pixels=max_pixels)
    except ImageError as error:
        raise LabelError(f"image {image.image_id}: {error}") from error


def fitted(
    target: Target, *, size: tuple[int, int], photo: Callable[[], EncodedImage], max_pixels: int
) -> Target:
    """Returns the target in the orientation of the upright photograph.

    Labels may have been drawn on the photograph as stored. Where their size is that of the upright
    photograph with height and width exchanged, they are turned as EXIF turns the photograph; all
    others are taken as upright, since the sizes of squares and of a half turn do not tell.

    Args:
        size: of the upright photograph.
        photo: gives the photograph; called only where sizes differ.

    Raises:
        LabelError: photograph and labels differ in size.
    """
    if size == target.size:
        return target
    image = photo()
    stored = orientation(image.data, name=image.name, max_pixels=max_pixels) if image.data else 1
    if size == target.size[::-1] and stored in (5, 6, 7, 8):
        return turn_upright(target, orientation=stored)
    exif = "" if stored == 1 else f" after its EXIF orientation {stored}"
    raise LabelError(
        f"image {image.image_id}: the photograph has {size[0]} x {size[1]} pixels upright{exif} "
        f"and its labels {target.size[0]} x {target.size[1]}, they must be of one size "
        f"({image.name})"
    )

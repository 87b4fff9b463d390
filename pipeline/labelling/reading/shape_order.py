"""Orders the images of a unit so that neighbours have one shape at the model's input.

`unit_loader.py` uses it where actors have GPUs, whose batches hold one shape: in the corpus's
order, a block of photographs falls into many small batches. An image's header tells its shape
before it is decoded. What waits for others of its shape is held encoded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from pipeline.corpora.reading import EncodedImage

HeightWidth = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PlacedImage:
    """An encoded image with its position in the unit, and how much of its run comes after it."""

    position: int
    image: EncodedImage
    bytes_to_come: int = 0
    """Pixels of the images behind it that have its shape and come without a stop."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size and the bytes of an image, by its header."""

    size: HeightWidth
    """Of the image itself, upright."""
    padded_size: HeightWidth
    """At the model's input; batches hold one such size."""
    num_bytes: int
    """Of the pixels that go to the actor."""


@dataclass(kw_only=True)
class _Run:
    """Images of one padded size that wait for more of it."""

    images: list[tuple[Shape, PlacedImage]] = field(default_factory=list)
    num_bytes: int = 0
    encoded_bytes: int = 0

    def add(self, placed: PlacedImage, *, shape: Shape) -> None:
        self.images.append((shape, placed))
        self.num_bytes += shape.num_bytes
        self.encoded_bytes += _encoded_bytes(placed)

    def placed(self) -> Iterator[PlacedImage]:
        """Yields its images; those of one size together, which a device resizes at once."""
        to_come = self.num_bytes
        for shape, placed in sorted(self.images, key=lambda e: (e[0].size, e[1].position)):
            to_come -= shape.num_bytes
            yield replace(placed, bytes_to_come=to_come)


@dataclass(frozen=True, kw_only=True)
class ShapeOrder:
    """Reorders images by shape, within a bound of memory, and begins before the unit's end."""

    shape_of: Callable[[EncodedImage], Shape | None]
    """Reads a header; returns None where there is none that can be read."""
    run_bytes: int
    """Pixels of one shape that go on as soon as there are so many: a block."""
    window_bytes: int
    """Most encoded bytes that wait; beyond that the shape with the most goes on."""

    def __call__(self, images: Iterable[PlacedImage]) -> Iterator[PlacedImage]:
        """Yields the images, those of one shape behind each other; those without one at once.

        The same images come in the same order each time. An exception of `images` passes through,
        and images that wait are dropped then.
        """
        waiting: dict[HeightWidth, _Run] = defaultdict(_Run)
        held_bytes = 0
        for placed in images:
            shape = self.shape_of(placed.image)
            if shape is None:
                yield placed
                continue
            waiting[shape.padded_size].add(placed, shape=shape)
            held_bytes += _encoded_bytes(placed)
            if waiting[shape.padded_size].num_bytes >= self.run_bytes:
                run = waiting.pop(shape.padded_size)
                held_bytes -= run.encoded_bytes
                yield from run.placed()
            while held_bytes > self.window_bytes:
                run = waiting.pop(max(waiting, key=lambda size: waiting[size].encoded_bytes))
                held_bytes -= run.encoded_bytes
                yield from run.placed()
        for size in sorted(waiting):
            yield from waiting.pop(size).placed()


def _encoded_bytes(placed: PlacedImage) -> int:
    return len(placed.image.data or b"")

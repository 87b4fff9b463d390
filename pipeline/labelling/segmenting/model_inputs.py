"""Makes the model's inputs from the pixels of loaded images.

Takes blocks of `unit_loader.py`; `batch_segmenter.py` gives the inputs to the model. On a CPU the
pixels are stacked; to a GPU they travel by `pinned_uploads.py`, while it computes something else,
and are resized there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from maskformer import MaskFormerImageProcessor
from pipeline.labelling.rows import ImageKey, image_key
from pipeline.labelling.segmenting.pinned_uploads import PinnedUploads

HeightWidth = tuple[int, int]
_Upload = Callable[[Sequence[UInt8[np.ndarray, "_ _ 3"]]], list[UInt8[Tensor, "_ _ _ 3"]]]

_Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt8[Tensor, "_ _ 3"]

_PIXELS = "pixels"
_ENCODED = "jpeg"


@dataclass(frozen=True, kw_only=True)
class LoadedImage:
    """The pixels of an image, with the size that they have and the size that the model takes."""

    key: ImageKey
    uri: str
    size: HeightWidth
    """Of the image itself, upright."""
    pixels: UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]
    """A read-only view of the block; a tensor where they were decoded on the device."""
    model_size: HeightWidth
    """At the model's input, before padding."""


def images_of(block: pa.Table) -> list[LoadedImage]:
    """Returns the images of a block that have pixels, in its order, without a copy of these."""
    rows = without_pixels(block).to_pylist()
    return [
        LoadedImage(
            key=image_key(row),
            uri=row["uri"],
            size=(row["height"], row["width"]),
            pixels=pixels.reshape(row["pixels_height"], row["pixels_width"], 3),
            model_size=(
                row["model_height"] or row["pixels_height"],
                row["model_width"] or row["pixels_width"],
            ),
        )
        for row, pixels in zip(rows, binary_views(block[_PIXELS]), strict=True)
        if pixels is not None
    ]


def without_pixels(block: pa.Table) -> pa.Table:
    """Returns the other columns of a block, which are small."""
    large = [name for name in (_PIXELS, _ENCODED) if name in block.column_names]
    return block.drop_columns(large)


def size_of(pixels: UInt8[np.ndarray, "height width 3"]) -> HeightWidth:
    height, width = pixels.shape[:2]
    return height, width


def binary_views(column: pa.ChunkedArray) -> Iterator[UInt8[np.ndarray, " num_bytes"] | None]:
    """Yields the bytes of each row as a view; scalars of pyarrow would copy them."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        if not len(chunk):
            continue
        ends = np.frombuffer(offsets, np.int32)[chunk.offset :]
        values = np.frombuffer(data or b"", np.uint8)
        for index, is_valid in enumerate(chunk.is_valid().to_pylist()):
            yield values[ends[index] : ends[index + 1]] if is_valid else None


class ModelInputs:
    """Makes the batches that a model takes, on its device."""

    def __init__(
        self, processor: MaskFormerImageProcessor, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._processor, self._dtype = processor, dtype
        self._uploaded: _Upload = PinnedUploads(device) if device.type == "cuda" else _stacked

    def __call__(
        self, images: Sequence[LoadedImage]
    ) -> Float[Tensor, "batch 3 padded_height padded_width"]:
        """Returns the normalised and padded pixels of images of one padded size.

        On a GPU it returns before the pixels are there; the current stream waits for them. One
        thread may call at a time.
        """
        pixels = self._on_device([image.pixels for image in images])
        sizes = iter([image.model_size for image in images])
        values = [
            self._processor.normalize(part, dtype=self._dtype)
            for stack in pixels
            for part in self._resized(stack, list(islice(sizes, len(stack))))
        ]
        return values[0] if len(values) == 1 else torch.cat(values)

    def _on_device(self, pixels: Sequence[_Pixels]) -> Iterator[UInt8[Tensor, "_ _ _ 3"]]:
        """Yields stacks of neighbours of one size; uploads those that are not there yet."""
        for _, group in groupby(pixels, key=type):
            run = list(group)
            tensors = [each for each in run if isinstance(each, Tensor)]
            for _, same in groupby(tensors, key=lambda each: each.shape):
                yield torch.stack(list(same))
            arrays = [each for each in run if isinstance(each, np.ndarray)]
            if arrays:
                yield from self._uploaded(arrays)

    def _resized(
        self, pixels: UInt8[Tensor, "batch _ _ 3"], sizes: Sequence[HeightWidth]
    ) -> Iterator[UInt8[Tensor, "_ _ _ 3"]]:
        """Yields neighbours of one size, resized to it on the device."""
        start = 0
        for size, run in groupby(sizes):
            stop = start + len(list(run))
            yield self._processor.resize_on_device(pixels[start:stop], size=size)
            start = stop

    def at_model_size(self, image: LoadedImage) -> LoadedImage:
        """Returns the image with its pixels resized in the memory of the CPU."""
        pixels = image.pixels
        pixels = pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels
        if size_of(pixels) != image.model_size:
            pixels = self._processor.resize(Image.fromarray(pixels), original_size=image.size)
        return replace(image, pixels=pixels)


def _stacked(arrays: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[UInt8[Tensor, "_ _ _ 3"]]:
    """Stacks neighbours of one shape."""
    return [torch.from_numpy(np.stack(list(run))) for _, run in groupby(arrays, key=np.shape)]

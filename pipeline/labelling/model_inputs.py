"""Makes the model's inputs from the pixels of loaded images.

Takes blocks of `loading.py`; `batch_segmenter.py` gives the inputs to the model. On a CPU the
pixels are stacked; to a GPU they travel by `pinned_uploads.py`, while it computes something else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskformer import MaskFormerImageProcessor
from pipeline.labelling.pinned_uploads import PinnedUploads
from pipeline.labelling.rows import ImageKey, image_key

HeightWidth = tuple[int, int]
_Upload = Callable[[Sequence[UInt8[np.ndarray, "_ _ 3"]]], list[UInt8[Tensor, "_ _ _ 3"]]]

_PIXELS = "pixels"


@dataclass(frozen=True, kw_only=True)
class LoadedImage:
    """The pixels of an image, with the size that they have and the size that the model takes."""

    key: ImageKey
    uri: str
    size: HeightWidth
    """Of the image itself, upright."""
    pixels: UInt8[np.ndarray, "height width 3"]
    """A read-only view of the block."""
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
        for row, pixels in zip(rows, _views(block[_PIXELS]), strict=True)
        if pixels is not None
    ]


def without_pixels(block: pa.Table) -> pa.Table:
    """Returns the other columns of a block, which are small."""
    return block.drop_columns([_PIXELS])


def size_of(pixels: UInt8[np.ndarray, "height width 3"]) -> HeightWidth:
    height, width = pixels.shape[:2]
    return height, width


def _views(column: pa.ChunkedArray) -> Iterator[UInt8[np.ndarray, " num_bytes"] | None]:
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
        stacks = self._uploaded([image.pixels for image in images])
        values = [self._processor.normalize(stack, dtype=self._dtype) for stack in stacks]
        return values[0] if len(values) == 1 else torch.cat(values)


def _stacked(arrays: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[UInt8[Tensor, "_ _ _ 3"]]:
    """Stacks neighbours of one shape."""
    return [torch.from_numpy(np.stack(list(run))) for _, run in groupby(arrays, key=np.shape)]

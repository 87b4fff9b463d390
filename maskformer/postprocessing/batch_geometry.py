"""The sizes of a batch's images, for the host and for its device.

`batch_argmax.py` and `batch_runs.py` take them. Images of one padded size have original sizes of
their own, so that a batch has a geometry for each image. Pixels of a batch stand in one row, image
after image and column by column within an image, as run lengths count them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from maskformer.device_copies import copied_to
from maskformer.postprocessing.geometry import Geometry, HeightWidth

_NUM_SIZES, _NUM_SCALES = 5, 4


@dataclass(frozen=True, kw_only=True)
class DeviceSizes:
    """The sizes of a batch as its device reads them."""

    sizes: Int64[Tensor, "batch 5"]
    """Height, width and first pixel of the target; height and width of what is resized to it."""

    scales: Float32[Tensor, "batch 4"]
    """Samples for each pixel, of rows and columns: of the last resizing, then of the one before."""


@dataclass(frozen=True)
class BatchGeometry:
    """The geometry of each image of a batch; all images are padded, or none is."""

    images: tuple[Geometry, ...]

    @classmethod
    def of(
        cls,
        mask_logits: Tensor,
        *,
        target_sizes: Sequence[HeightWidth],
        image_sizes: Sequence[HeightWidth] | None,
        padded_size: HeightWidth | None,
    ) -> "BatchGeometry":
        """Returns the geometry of masks [batch, queries, height, width].

        Raises:
            ValueError: the sizes are not one for each image, or an image is not in `padded_size`.
        """
        for name, sizes in (("target_sizes", target_sizes), ("image_sizes", image_sizes)):
            if sizes is not None and len(sizes) != len(mask_logits):
                raise ValueError(
                    f"{name} must hold a size for each image of the batch, got {len(sizes)} for "
                    f"{len(mask_logits)}"
                )
        return cls(
            tuple(
                Geometry.of(
                    mask_logits[0],
                    target_size=target_size,
                    image_size=None if image_sizes is None else image_sizes[index],
                    padded_size=padded_size,
                )
                for index, target_size in enumerate(target_sizes)
            )
        )

    @property
    def is_padded(self) -> bool:
        return self.images[0].image_size is not None

    @property
    def num_columns(self) -> int:
        """Returns the width of all images together."""
        return sum(image.target_size[1] for image in self.images)

    @cached_property
    def pixels(self) -> Int64[np.ndarray, " batch"]:
        """The pixels of each image."""
        return np.array([np.prod(image.target_size) for image in self.images], np.int64)

    @cached_property
    def first_pixels(self) -> Int64[np.ndarray, " batch"]:
        """The place of each image's first pixel in the row of all."""
        return np.cumsum(self.pixels) - self.pixels

    @property
    def groups(self) -> list[list[int]]:
        """Returns the numbers of the images that share all sizes, group by group."""
        groups: dict[Geometry, list[int]] = defaultdict(list)
        for index, image in enumerate(self.images):
            groups[image].append(index)
        return list(groups.values())

    def on(self, device: torch.device) -> DeviceSizes:
        """Copies the sizes to the device, in one transfer without a wait."""
        sizes, scales = [], []
        for image, first_pixel in zip(self.images, self.first_pixels.tolist(), strict=True):
            sizes.append((*image.target_size, first_pixel, *image.source_size))
            steps = (image.source_size, image.target_size), (image.mask_size, image.padded_size)
            scales.append([old[axis] / new[axis] for old, new in steps for axis in (0, 1)])
        # Those of 16 bytes an image come first: for tensors that do not begin at a multiple of 16
        # Triton would compile a kernel again.
        data = np.array(scales, np.float32).tobytes() + np.array(sizes, np.int64).tobytes()
        both = copied_to(device, torch.frombuffer(bytearray(data), dtype=torch.uint8))
        end_of_scales = 4 * _NUM_SCALES * len(self.images)
        return DeviceSizes(
            sizes=both[end_of_scales:].view(torch.int64).view(-1, _NUM_SIZES),
            scales=both[:end_of_scales].view(torch.float32).view(-1, _NUM_SCALES),
        )

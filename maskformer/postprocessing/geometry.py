"""Geometry: the way from masks at the model's resolution to the target's pixels.

With `image_size` and `padded_size` the masks are resized the published way: logits are enlarged to
the padded network input, the padding is cut off, and what remains is resized to the target. Without
them nothing was padded, and the maps are resized at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from maskformer import bilinear
from maskformer.bilinear import CPU, InterpolationGrid

HeightWidth = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Some rows of maps at their source's size, and where the target's rows lie among them."""

    maps: Float[Tensor, "maps height width"]
    rows: InterpolationGrid
    columns: InterpolationGrid

    def resized(self) -> Float[Tensor, "maps band target_width"]:
        return bilinear.resample(self.maps, rows=self.rows, columns=self.columns)

    def made_of(self, maps: Float[Tensor, "maps height width"]) -> "Crop":
        """Other maps of the same places."""
        return Crop(maps=maps, rows=self.rows, columns=self.columns)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The way from the masks' size to the target's; `image_size` None where nothing was padded."""

    mask_size: HeightWidth
    target_size: HeightWidth
    image_size: HeightWidth | None
    padded_size: HeightWidth

    @classmethod
    def of(
        cls,
        mask_logits: Tensor,
        *,
        target_size: HeightWidth | None,
        image_size: HeightWidth | None,
        padded_size: HeightWidth | None,
    ) -> "Geometry":
        mask_height, mask_width = mask_logits.shape[-2:]
        if image_size is None:
            padded_size = (mask_height, mask_width)
        elif padded_size is None:
            raise ValueError(
                f"image_size={image_size} says what is valid in the padded network input; give its "
                "(height, width) as padded_size too"
            )
        elif (
            min(image_size) < 1 or image_size[0] > padded_size[0] or image_size[1] > padded_size[1]
        ):
            raise ValueError(
                f"image_size must lie within padded_size, got {image_size} and {padded_size}"
            )
        height, width = target_size or image_size or (mask_height, mask_width)
        return cls(
            mask_size=(mask_height, mask_width),
            target_size=(int(height), int(width)),
            image_size=image_size,
            padded_size=padded_size,
        )

    def without_padding(self, mask_logits: Tensor) -> Tensor:
        """The masks, cut after the last sample that lies in the image, at least in part."""
        height, width = self.unpadded_mask_size
        return mask_logits[:, :height, :width]

    @property
    def unpadded_mask_size(self) -> HeightWidth:
        if self.image_size is None:
            return self.mask_size
        height, width = (
            math.ceil(masks * image / padded)
            for masks, image, padded in zip(
                self.mask_size, self.image_size, self.padded_size, strict=True
            )
        )
        return height, width

    def resized(self, mask_logits: Float[Tensor, "maps height width"]) -> Tensor:
        """The masks at the target size."""
        if self.image_size is None:
            return bilinear.resize(mask_logits, self.target_size)
        return self.whole_crop(mask_logits).resized()

    def masks_within(self, byte_budget: int) -> int:
        """Returns the number of masks that can be resized at once."""
        return max(1, byte_budget // (4 * self.pixels_per_mask))

    def crops(
        self,
        mask_logits: Float[Tensor, "maps height width"],
        *,
        bytes_per_row: int,
        byte_budget: int,
    ) -> Iterator[Crop]:
        """The logits at their source's size, for bands of the target."""
        for band in bilinear.bands(
            self.target_size[0], bytes_per_row=bytes_per_row, byte_budget=byte_budget
        ):
            yield self.crop(mask_logits, band)

    def whole_crop(self, mask_logits: Float[Tensor, "maps height width"]) -> Crop:
        """The one crop of which all of the target is made."""
        return self.crop(mask_logits, slice(0, self.target_size[0]))

    def crop(self, mask_logits: Float[Tensor, "maps height width"], band: slice) -> Crop:
        """The crop of which some rows of the target are made."""
        device = mask_logits.device
        rows, columns = bilinear.interpolation_grids(self.source_size, self.target_size, device)
        needed = _needed(self.source_size[0], self.target_size[0], band)
        if self.image_size is None:
            logits = mask_logits[:, needed]
        else:
            inner_rows, inner_columns = bilinear.interpolation_grids(
                self.mask_size, self.padded_size, device
            )
            masks = _needed(self.mask_size[0], self.padded_size[0], needed)
            logits = bilinear.resample(
                mask_logits[:, masks].float(),
                rows=inner_rows[needed].shifted(masks.start),
                columns=inner_columns[: self.image_size[1]],
            )
        return Crop(maps=logits, rows=rows[band].shifted(needed.start), columns=columns)

    @property
    def source_size(self) -> HeightWidth:
        """The size that is resized to the target: the unpadded network input, or the masks'."""
        return self.image_size or self.mask_size

    @property
    def pixels_per_mask(self) -> int:
        pixels = math.prod(self.target_size)
        return pixels if self.image_size is None else max(pixels, math.prod(self.image_size))


def _needed(old: int, new: int, band: slice) -> slice:
    """The old rows that some new ones are made of."""
    # Read from a copy on the CPU, so that no device waits.
    at = bilinear.interpolation_grid(old, new, CPU)[band]
    return slice(int(at.before.numpy()[0]), int(at.after.numpy()[-1]) + 1)

"""Bilinear resampling of maps, whole or in pieces.

Takes the low-resolution maps of the model for `postprocessing/`. Follows the convention of
`torch.nn.functional.interpolate` with `align_corners=False`. Each value is computed by the same
operations in every piece, so that pieces of any size equal the whole to the last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from maskformer.device_copies import copied_to

CPU = torch.device("cpu")

_CPU_BYTES = 3 << 19
_DEVICE_BYTES = 256 << 20


def byte_budget_of(device: torch.device) -> int:
    """Returns the size of a block of pixels: a core's cache, or enough to fill a GPU."""
    return _CPU_BYTES if device == CPU else _DEVICE_BYTES


@dataclass(frozen=True, kw_only=True)
class InterpolationGrid:
    """The grid of one axis: between which two samples each new position lies, and how far along."""

    before: Int64[Tensor, " new"]
    after: Int64[Tensor, " new"]
    weight_after: Float32[Tensor, " new"]

    def __getitem__(self, part: slice) -> "InterpolationGrid":
        return InterpolationGrid(
            before=self.before[part], after=self.after[part], weight_after=self.weight_after[part]
        )

    def reversed(self) -> "InterpolationGrid":
        """Returns the grid with its positions from the last to the first."""
        return InterpolationGrid(
            before=self.before.flip(0),
            after=self.after.flip(0),
            weight_after=self.weight_after.flip(0),
        )

    def shifted(self, offset: int) -> "InterpolationGrid":
        """Returns the grid for samples without the first `offset`, which were cut off."""
        return InterpolationGrid(
            before=self.before - offset, after=self.after - offset, weight_after=self.weight_after
        )


@lru_cache(maxsize=512)
def interpolation_grid(old: int, new: int, device: torch.device) -> InterpolationGrid:
    """Spreads `new` positions evenly over `old` samples."""
    # float32 arithmetic as in torch, so that positions fall between the same samples as there.
    position = (torch.arange(new, dtype=torch.float32) + 0.5) * (old / new) - 0.5
    position = position.clamp_(min=0)
    before = position.long().clamp_(max=old - 1)
    return InterpolationGrid(
        before=copied_to(device, before),
        after=copied_to(device, (before + 1).clamp_(max=old - 1)),
        weight_after=copied_to(device, position - before),
    )


def interpolation_grids(
    old: tuple[int, int], new: tuple[int, int], device: torch.device
) -> tuple[InterpolationGrid, InterpolationGrid]:
    """Returns the grid of the rows and that of the columns."""
    return interpolation_grid(old[0], new[0], device), interpolation_grid(old[1], new[1], device)


def resample(
    maps: Float[Tensor, "maps height width"], *, rows: InterpolationGrid, columns: InterpolationGrid
) -> Float[Tensor, "maps new_height new_width"]:
    """Resamples the maps. The value at a position does not depend on the other positions."""
    wide = _resample_columns(maps, columns)
    above = wide.index_select(1, rows.before)
    below = wide.index_select(1, rows.after)
    return below.sub_(above).mul_(rows.weight_after[:, None]).add_(above)


def resize(
    maps: Float[Tensor, "maps height width"], size: tuple[int, int]
) -> Float[Tensor, "maps {size[0]} {size[1]}"]:
    """Resizes the maps to `size`."""
    rows, columns = interpolation_grids((maps.shape[1], maps.shape[2]), size, maps.device)
    return resample(maps, rows=rows, columns=columns)


def _resample_columns(
    maps: Float[Tensor, "maps height width"], columns: InterpolationGrid
) -> Float[Tensor, "maps height new_width"]:
    # With the columns in front whole slices are picked, not single numbers; turning the maps there
    # and back costs less than it saves.
    turned = maps.permute(2, 0, 1).contiguous()
    left = turned.index_select(0, columns.before)
    right = turned.index_select(0, columns.after)
    # One operation each on purpose: fused, they would round differently from one position in an
    # array to the next.
    wide = right.sub_(left).mul_(columns.weight_after[:, None, None]).add_(left)
    return wide.permute(1, 2, 0).contiguous()


def bands(length: int, *, bytes_per_row: int, byte_budget: int) -> Iterator[slice]:
    """Rows up to `length` in bands of at least one, within the budget if they can be."""
    step = max(1, byte_budget // max(1, bytes_per_row))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))

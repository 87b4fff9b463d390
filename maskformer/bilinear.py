"""Bilinear resampling of maps, and who leads in a stack of maps once it is resampled.

Takes the low-resolution maps of the model; `postprocess.py` asks. Everything here follows the
convention of `torch.nn.functional.interpolate` with `align_corners=False`.

Resampled maps are much larger than what they are made of, and all that is wanted of them is which
one is highest at each pixel and how large each is. So they are made in blocks that fit a core's
cache and are gone before they would have to be written to memory. Each value is computed by the
same operations wherever it stands in a block: pieces of any size give what the whole would give, to
the last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer
from torch import Tensor

CPU = torch.device("cpu")

_CPU_BYTES = 3 << 19
_DEVICE_BYTES = 256 << 20


def byte_budget_of(device: torch.device) -> int:
    """How many bytes a block of pixels should have: a core's cache, or enough to fill a GPU."""
    return _CPU_BYTES if device == CPU else _DEVICE_BYTES


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where new places along one side lie among its old samples."""

    before: Int64[Tensor, " new"]
    after: Int64[Tensor, " new"]
    weight_after: Float32[Tensor, " new"]

    def __getitem__(self, part: slice) -> "Places":
        return Places(
            before=self.before[part], after=self.after[part], weight_after=self.weight_after[part]
        )

    def shifted(self, offset: int) -> "Places":
        """The same places, for samples of which the first `offset` were cut off."""
        return Places(
            before=self.before - offset, after=self.after - offset, weight_after=self.weight_after
        )


@lru_cache(maxsize=512)
def places(old: int, new: int, device: torch.device) -> Places:
    """The `new` places, evenly spread over `old` samples."""
    # float32 arithmetic as in torch, so that a place falls between the same samples there and here.
    position = (torch.arange(new, dtype=torch.float32) + 0.5) * (old / new) - 0.5
    position = position.clamp_(min=0)
    before = position.long().clamp_(max=old - 1)
    return Places(
        before=before.to(device),
        after=(before + 1).clamp_(max=old - 1).to(device),
        weight_after=(position - before).to(device),
    )


def places_2d(
    old: tuple[int, int], new: tuple[int, int], device: torch.device
) -> tuple[Places, Places]:
    """The places of the rows, and of the columns."""
    return places(old[0], new[0], device), places(old[1], new[1], device)


def resample(
    maps: Float[Tensor, "maps height width"], *, rows: Places, columns: Places
) -> Float[Tensor, "maps new_height new_width"]:
    """The maps at the given places; a place's value is the same whichever others are asked for."""
    wide = _resample_columns(maps, columns)
    above = wide.index_select(1, rows.before)
    below = wide.index_select(1, rows.after)
    return below.sub_(above).mul_(rows.weight_after[:, None]).add_(above)


def resize(
    maps: Float[Tensor, "maps height width"], size: tuple[int, int]
) -> Float[Tensor, "maps {size[0]} {size[1]}"]:
    """The maps at `size`."""
    rows, columns = places_2d((maps.shape[1], maps.shape[2]), size, maps.device)
    return resample(maps, rows=rows, columns=columns)


def _resample_columns(
    maps: Float[Tensor, "maps height width"], columns: Places
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


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What a stack of resized maps comes to."""

    winner: Integer[Tensor, "height width"]
    """The first of the maps that are highest at a pixel, in a small integer type."""

    areas: Int64[Tensor, " maps"]
    """How many pixels of each map are at or above its threshold."""


def contest(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    thresholds: Float32[Tensor, " maps"],
    byte_budget: int | None = None,
) -> Contest:
    """Who leads where, and how large each map is, once the maps have been resized to `size`."""
    areas = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    winners = []
    for block in _blocks(maps, size, byte_budget=byte_budget):
        areas += count_at_least(block, thresholds)
        winners.append(first_argmax(block))
    rows = _cells(maps.shape[1], size[0], maps.device).rows
    return Contest(winner=torch.cat(winners).index_select(0, rows), areas=areas)


def resized_argmax(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    byte_budget: int | None = None,
) -> Integer[Tensor, "{size[0]} {size[1]}"]:
    """The `winner` of a contest."""
    winners = [first_argmax(block) for block in _blocks(maps, size, byte_budget=byte_budget)]
    rows = _cells(maps.shape[1], size[0], maps.device).rows
    return torch.cat(winners).index_select(0, rows)


def first_argmax(maps: Float32[Tensor, "maps height width"]) -> Integer[Tensor, "height width"]:
    """The first of the maps that are highest at a pixel, in a small integer type."""
    # torch.argmax along the first dimension is not vectorised on CPUs, and leaves ties open.
    num_maps = len(maps)
    dtype = torch.uint8 if num_maps < 1 << 8 else torch.int16
    rank = torch.arange(num_maps, 0, -1, dtype=dtype, device=maps.device)[:, None, None]
    is_highest = _equal(maps, maps.amax(0)).view(torch.uint8)
    ranks = is_highest.mul_(rank) if dtype == torch.uint8 else is_highest * rank
    # At least 1: where a value is not a number none is highest, and the last map stands in.
    return num_maps - ranks.amax(0).clamp_(min=1)


def count_at_least(
    maps: Float32[Tensor, "maps height width"], thresholds: Float32[Tensor, " maps"]
) -> Int64[Tensor, " maps"]:
    """How many pixels of each map are at or above its threshold."""
    if maps.device != CPU:
        return (maps >= thresholds[:, None, None]).sum((1, 2))
    pairs = zip(maps.numpy(), thresholds.numpy(), strict=True)
    return torch.tensor([np.count_nonzero(pixels >= threshold) for pixels, threshold in pairs])


def _equal(
    maps: Float32[Tensor, "maps height width"], other: Float32[Tensor, "height width"]
) -> Bool[Tensor, "maps height width"]:
    if maps.device != CPU:
        return maps == other
    # Comparisons are not vectorised in torch, and are in numpy: six times faster.
    return torch.from_numpy(np.equal(maps.numpy(), other.numpy()))


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """New rows by the pair of old rows that they lie between, equally many for each.

    Where there are fewer, spare rows fill up. Their weights are not numbers and nor are their
    values, so that no threshold counts them; `rows` leaves them out.
    """

    weight_below: Float32[Tensor, "old longest 1"]
    rows: Int64[Tensor, " new"]


@lru_cache(maxsize=512)
def _cells(old: int, new: int, device: torch.device) -> _Cells:
    at = places(old, new, CPU)
    num_rows = torch.bincount(at.before, minlength=old)[:, None]
    first = num_rows.cumsum(0) - num_rows
    step = torch.arange(int(num_rows.max()))
    is_spare = step >= num_rows
    weights = at.weight_after[(first + step).clamp_(max=new - 1)]
    return _Cells(
        weight_below=weights.masked_fill_(is_spare, torch.nan)[:, :, None].to(device),
        rows=(~is_spare).flatten().nonzero().squeeze(1).to(device),
    )


def _blocks(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    byte_budget: int | None,
) -> Iterator[Float32[Tensor, "maps band new_width"]]:
    """The resized maps with their spare rows, from top to bottom, in bands.

    All bands use the same memory: one is lost when the next is asked for.
    """
    num_maps, height, width = maps.shape
    weight_below = _cells(height, size[0], maps.device).weight_below
    columns = places(width, size[1], maps.device)
    longest = weight_below.shape[1]
    bytes_per_cell = maps.element_size() * num_maps * longest * size[1]
    budget = byte_budget_of(maps.device) if byte_budget is None else byte_budget
    memory = maps.new_empty(0)
    for band in bands(height, bytes_per_row=bytes_per_cell, byte_budget=budget):
        wide = _resample_columns(maps[:, band.start : band.stop + 1], columns)
        if band.stop == height:
            # Nothing lies below the last row, which stands in for it.
            wide = torch.cat([wide, wide[:, -1:]], dim=1)
        above = wide[:, :-1, None]
        num_cells = band.stop - band.start
        if not len(memory):
            memory = maps.new_empty(num_maps, num_cells, longest, size[1])
        block = memory[:, :num_cells]
        torch.mul(wide[:, 1:, None] - above, weight_below[band], out=block)
        yield block.add_(above).flatten(1, 2)


def bands(length: int, *, bytes_per_row: int, byte_budget: int) -> Iterator[slice]:
    """Rows up to `length` in bands of at least one, within the budget if they can be."""
    step = max(1, byte_budget // max(1, bytes_per_row))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))

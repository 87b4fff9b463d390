"""Bilinear resampling of maps, and who leads in a stack of maps once it is resampled.

Takes the low-resolution maps of the model; `postprocess.py` asks. Everything here follows the
convention of `torch.nn.functional.interpolate` with `align_corners=False`.

Resampled maps are much larger than what they are made of, and mostly say nothing new. A *cell* is
the square between four neighbouring samples; every pixel in it is a mean of the four, with the same
weights in every map of a stack. So when one map leads at all four corners, it leads in the whole
cell, and when all four are above a threshold, so is the cell. Only the other cells, those along the
outlines, are computed pixel by pixel. That is exact, and a small share of the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer
from torch import Tensor

BYTE_BUDGET = 64 << 20
"""About how much memory the intermediate results of one image may take."""

TEMPORARIES = 4
"""How many arrays of the size of a block of pixels are alive at once while it is computed."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """What each of the new places along one side is a mean of."""

    before: Int64[Tensor, " new"]
    after: Int64[Tensor, " new"]
    weight_after: Float32[Tensor, " new"]

    def __getitem__(self, part: slice) -> "Places":
        return Places(
            before=self.before[part],
            after=self.after[part],
            weight_after=self.weight_after[part],
        )

    def shifted(self, offset: int) -> "Places":
        """The same places, for samples of which the first `offset` were cut off."""
        return Places(
            before=self.before - offset,
            after=self.after - offset,
            weight_after=self.weight_after,
        )


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The new places along one side, by the cell that they fall into.

    A column holds the places of one cell; shorter columns repeat their last place. Cells come last
    here and below because there are many of them and few places in each: loops over the last
    dimension are the ones that run fast.
    """

    num_places: Int64[Tensor, " old"]
    place: Int64[Tensor, "longest old"]
    weight_after: Float32[Tensor, "longest old"]
    is_repeated: Bool[Tensor, "longest old"]


@lru_cache(maxsize=512)
def places(old: int, new: int, device: torch.device) -> Places:
    """Where the `new` places lie among the `old` samples."""
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


@lru_cache(maxsize=512)
def cells(old: int, new: int, device: torch.device) -> Cells:
    """The places of `places`, cell by cell."""
    at = places(old, new, torch.device("cpu"))
    num_places = torch.bincount(at.before, minlength=old)
    first = num_places.cumsum(0) - num_places
    step = torch.arange(int(num_places.max()))[:, None]
    place = first + torch.minimum(step, (num_places - 1).clamp(min=0))
    place.clamp_(max=new - 1)
    return Cells(
        num_places=num_places.to(device),
        place=place.to(device),
        weight_after=at.weight_after[place].to(device),
        is_repeated=(step >= num_places).to(device),
    )


def resample(
    maps: Float[Tensor, "maps height width"], *, rows: Places, columns: Places
) -> Float[Tensor, "maps new_height new_width"]:
    """The maps at the given places; a place's value is the same whichever others are asked for."""
    # The products stand alone on purpose: fused multiply-adds round differently from one position
    # in an array to the next, and pieces would differ from the whole.
    left, right = (maps.index_select(2, index) for index in (columns.before, columns.after))
    wide = left.mul_(1 - columns.weight_after).add_(right.mul_(columns.weight_after))
    above, below = (wide.index_select(1, index) for index in (rows.before, rows.after))
    weight_below = rows.weight_after[:, None]
    return above.mul_(1 - weight_below).add_(below.mul_(weight_below))


def resize(
    maps: Float[Tensor, "maps height width"], size: tuple[int, int]
) -> Float[Tensor, "maps {size[0]} {size[1]}"]:
    """The maps at `size`."""
    rows, columns = places_2d((maps.shape[1], maps.shape[2]), size, maps.device)
    return resample(maps, rows=rows, columns=columns)


def first_argmax(maps: Float[Tensor, "maps *pixels"]) -> Integer[Tensor, "*pixels"]:
    """Which map is highest at each pixel; the first of them when several are.

    In the smallest integer type that holds the answer.
    """
    # torch.argmax along the first dimension is not vectorised on CPUs, and leaves ties open.
    num_maps = len(maps)
    dtype = torch.uint8 if num_maps < 1 << 8 else torch.int16
    rank = torch.arange(num_maps, 0, -1, dtype=dtype, device=maps.device)
    is_highest = (maps == maps.amax(0)).to(dtype)
    # At least 1: where a map is not a number none is highest, and the last stands in.
    best_rank = is_highest.mul_(rank.view(-1, *[1] * (maps.dim() - 1))).amax(0).clamp_(min=1)
    return num_maps - best_rank


def resized_argmax(
    maps: Float[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    byte_budget: int = BYTE_BUDGET,
) -> Integer[Tensor, "{size[0]} {size[1]}"]:
    """`first_argmax` of the maps resized to `size`, which are never made as a whole."""
    height, width = maps.shape[1:]
    rows = cells(height, size[0], maps.device)
    columns = cells(width, size[1], maps.device)
    leader = first_argmax(maps)
    at_rows = places(height, size[0], maps.device).before
    at_columns = places(width, size[1], maps.device).before
    winner = leader.index_select(1, at_columns).index_select(0, at_rows)

    contested = _corners_differ(leader)
    contested &= (rows.num_places > 0)[:, None] & (columns.num_places > 0)
    flat_maps, flat_winner = maps.flatten(1), winner.view(-1)
    for block in _blocks(
        contested, rows=rows, columns=columns, num_maps=len(maps), byte_budget=byte_budget
    ):
        values = _blend(
            [flat_maps.index_select(1, corner) for corner in block.corners],
            rows=rows.weight_after.index_select(1, block.row),
            columns=columns.weight_after.index_select(1, block.column),
        )
        first_in_row = rows.place.index_select(1, block.row) * size[1]
        pixels = first_in_row[:, None] + columns.place.index_select(1, block.column)
        flat_winner[pixels.flatten()] = first_argmax(values.flatten(1))
    return winner


def resized_areas(
    maps: Float[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    threshold: float,
    byte_budget: int = BYTE_BUDGET,
) -> Int64[Tensor, " maps"]:
    """How many pixels of each map, resized to `size`, are at or above `threshold`."""
    height, width = maps.shape[1:]
    rows = cells(height, size[0], maps.device)
    columns = cells(width, size[1], maps.device)
    is_inside = maps >= threshold
    contested = _corners_differ(is_inside)
    # In float64 sums of counts are exact, and products of a matrix and a vector are fast.
    settled = (is_inside & ~contested).float() @ columns.num_places.float()
    areas = (settled.double() @ rows.num_places.double()).long()

    contested &= (rows.num_places > 0)[:, None] & (columns.num_places > 0)
    flat_maps = maps.flatten()
    for block in _blocks(
        contested, rows=rows, columns=columns, num_maps=1, byte_budget=byte_budget
    ):
        values = _blend(
            [flat_maps.index_select(0, corner) for corner in block.corners],
            rows=rows.weight_after.index_select(1, block.row),
            columns=columns.weight_after.index_select(1, block.column),
        )
        counted = values >= threshold
        counted &= ~rows.is_repeated.index_select(1, block.row)[:, None]
        counted &= ~columns.is_repeated.index_select(1, block.column)
        areas.index_add_(0, block.map, counted.sum((0, 1)))
    return areas


def bands(length: int, *, bytes_per_row: int, byte_budget: int | None) -> Iterator[slice]:
    """Rows up to `length` in bands of at least one, within the budget if they can be."""
    step = length
    if byte_budget is not None:
        step = max(1, byte_budget // max(1, TEMPORARIES * bytes_per_row))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _corners_differ(
    maps: Integer[Tensor, "*maps height width"],
) -> Bool[Tensor, "*maps height width"]:
    """Whether a cell's four corners differ. The cell of a sample lies below and right of it."""
    differs = torch.zeros(maps.shape, dtype=torch.bool, device=maps.device)
    from_right = maps[..., :, 1:] != maps[..., :, :-1]
    differs[..., :, :-1] = from_right
    differs[..., :-1, :] |= maps[..., 1:, :] != maps[..., :-1, :]
    differs[..., :-1, :-1] |= from_right[..., 1:, :]
    return differs


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Some cells: the map (where there are several), row and column of each, and its corners."""

    map: Int64[Tensor, " cells"]
    row: Int64[Tensor, " cells"]
    column: Int64[Tensor, " cells"]
    corners: tuple[Tensor, Tensor, Tensor, Tensor]


def _blocks(
    chosen: Bool[Tensor, "*maps height width"],
    *,
    rows: Cells,
    columns: Cells,
    num_maps: int,
    byte_budget: int,
) -> Iterator[_Block]:
    """The chosen cells in blocks; `num_maps` maps of a block's pixels stay in the budget."""
    height, width = chosen.shape[-2:]
    bytes_per_cell = 4 * num_maps * len(rows.place) * len(columns.place)
    step = max(1, byte_budget // (TEMPORARIES * bytes_per_cell))
    for index in chosen.flatten().nonzero().squeeze(1).split(step):
        line = index // width
        column = index - line * width
        which = line // height
        row = line - which * height
        # Beyond the last sample lies that sample again.
        right = (column + 1 < width).long()
        below = (row + 1 < height).long() * width
        yield _Block(
            map=which,
            row=row,
            column=column,
            corners=(index, index + right, index + below, index + below + right),
        )


def _blend(
    corners: list[Float[Tensor, "*maps cells"]],
    *,
    rows: Float[Tensor, "cell_height cells"],
    columns: Float[Tensor, "cell_width cells"],
) -> Float[Tensor, "*maps cell_height cell_width cells"]:
    """The pixels of cells, in the order of operations of `resample`."""
    above_left, above_right, below_left, below_right = (corner.unsqueeze(-2) for corner in corners)
    weight_left, weight_below = 1 - columns, rows[:, None]
    above = (above_left * weight_left).add_(above_right * columns).unsqueeze(-3)
    below = (below_left * weight_left).add_(below_right * columns).unsqueeze(-3)
    return (above * (1 - weight_below)).add_(below * weight_below)

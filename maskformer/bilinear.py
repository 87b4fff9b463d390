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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
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
    """How many pixels of each map are at or above its threshold; all 0 if none were given."""


def contest(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int | None = None,
) -> Contest:
    """Who leads where, and how large each map is, once the maps have been resized to `size`."""
    budget = byte_budget_of(maps.device) if byte_budget is None else byte_budget
    if maps.device == CPU:
        return _contest_on_cpu(maps, size, thresholds=thresholds, byte_budget=budget)
    rows, columns = places_2d((maps.shape[1], maps.shape[2]), size, maps.device)
    areas = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    winners = []
    for band in bands(size[0], bytes_per_row=4 * len(maps) * size[1], byte_budget=budget):
        resized = resample(maps, rows=rows[band], columns=columns)
        winners.append(first_argmax(resized))
        if thresholds is not None:
            areas += count_at_least(resized, thresholds)
    return Contest(winner=torch.cat(winners), areas=areas)


def first_argmax(maps: Float32[Tensor, "maps height width"]) -> Integer[Tensor, "height width"]:
    """The first of the maps that are highest at a pixel, in a small integer type."""
    # torch.argmax along the first dimension is not vectorised on CPUs, and leaves ties open.
    if maps.device == CPU:
        return torch.from_numpy(_first_argmax(maps.numpy()))
    rank = torch.arange(len(maps), 0, -1, dtype=torch.int16, device=maps.device)
    ranks = (maps == maps.amax(0)) * rank[:, None, None]
    return len(maps) - ranks.amax(0).clamp_(min=1)


def count_at_least(
    maps: Float32[Tensor, "maps height width"], thresholds: Float32[Tensor, " maps"]
) -> Int64[Tensor, " maps"]:
    """How many pixels of each map are at or above its threshold."""
    return (maps >= thresholds[:, None, None]).sum((1, 2))


def _first_argmax(
    maps: Float32[np.ndarray, "maps height width"],
) -> Integer[np.ndarray, "height width"]:
    """`first_argmax` in numpy, whose comparisons are vectorised; torch's on CPUs are not."""
    num_maps = len(maps)
    rank = np.arange(num_maps, 0, -1, dtype=_index_type(num_maps))[:, None, None]
    is_highest = np.equal(maps, maps.max(0)).view(np.uint8)
    # At least 1: where a value is not a number none is highest, and the last map stands in.
    return num_maps - np.maximum((is_highest * rank).max(0), 1)


def _index_type(num_maps: int) -> type[np.uint8] | type[np.int16]:
    """A type as small as can be for the numbers up to and with `num_maps`."""
    return np.uint8 if num_maps < 1 << 8 else np.int16


def _contest_on_cpu(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int,
) -> Contest:
    """A contest in numpy, in as many threads as torch may use, each with its own rows.

    torch's own threads meet after every operation, which costs more than such small ones take, and
    very much more where other work keeps the cores busy.
    """
    cells = _cells(maps.shape[1], size[0], size[1])
    bytes_per_cell = 4 * len(maps) * cells.weight_below[:, 0].size
    samples = maps.numpy()
    limits = None if thresholds is None else thresholds.numpy()

    def of_rows(part: slice) -> tuple[np.ndarray, np.ndarray]:
        return _contest_of_rows(
            samples,
            part,
            cells=cells,
            limits=limits,
            max_cells=max(1, byte_budget // bytes_per_cell),
        )

    num_threads = min(torch.get_num_threads(), maps.shape[1])
    height = maps.shape[1]
    edges = [height * thread // num_threads for thread in range(num_threads + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    run = map if num_threads == 1 else _threads(num_threads).map
    winners, areas = zip(*run(of_rows, parts), strict=True)
    lines = np.concatenate(winners).reshape(-1, size[1])
    return Contest(
        winner=torch.from_numpy(lines[cells.rows]), areas=torch.from_numpy(np.sum(areas, axis=0))
    )


@lru_cache(maxsize=4)
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="contest")


def _contest_of_rows(
    maps: Float32[np.ndarray, "maps height width"],
    part: slice,
    *,
    cells: "_Cells",
    limits: Float32[np.ndarray, " maps"] | None,
    max_cells: int,
) -> tuple[Integer[np.ndarray, "cells longest new_width"], Int64[np.ndarray, " maps"]]:
    """The winners, spare rows among them, and the areas in some rows of cells."""
    num_maps, height, _ = maps.shape
    longest, _, new_width = cells.weight_below.shape
    max_cells = min(max_cells, part.stop - part.start)
    winner = np.empty((part.stop - part.start, longest, new_width), _index_type(num_maps))
    areas = np.zeros(num_maps, np.int64)
    memory = np.empty((num_maps, longest * max_cells, new_width), np.float32)
    columns = places(maps.shape[2], new_width, CPU)
    for start in range(part.start, part.stop, max_cells):
        stop = min(start + max_cells, part.stop)
        wide = _wide(maps[:, start : stop + 1], columns)
        if stop == height:
            # Nothing lies below the last row, which stands in for it.
            wide = np.concatenate([wide, wide[:, -1:]], axis=1)
        above, step = wide[:, :-1], np.diff(wide, axis=1)
        num_cells = stop - start
        block = memory[:, : longest * num_cells]
        for place, weight_below in enumerate(cells.weight_below[:, start:stop]):
            lines = block[:, place * num_cells : (place + 1) * num_cells]
            np.multiply(step, weight_below, out=lines)
            np.add(lines, above, out=lines)
        best = _first_argmax(block).reshape(longest, num_cells, new_width)
        winner[start - part.start : stop - part.start] = best.swapaxes(0, 1)
        if limits is not None:
            is_inside = np.greater_equal(block, limits[:, None, None])
            areas += [np.count_nonzero(each) for each in is_inside]
    return winner, areas


def _wide(
    maps: Float32[np.ndarray, "maps height width"], columns: Places
) -> Float32[np.ndarray, "maps height new_width"]:
    """`_resample_columns` in numpy."""
    turned = np.ascontiguousarray(maps.transpose(2, 0, 1))
    left = turned.take(columns.before.numpy(), 0)
    wide = turned.take(columns.after.numpy(), 0)
    np.subtract(wide, left, out=wide)
    np.multiply(wide, columns.weight_after.numpy()[:, None, None], out=wide)
    np.add(wide, left, out=wide)
    return np.ascontiguousarray(wide.transpose(1, 2, 0))


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """New rows by the pair of old rows that they lie between, equally many for each.

    Where there are fewer, spare rows fill up. Their weights are not numbers and nor are their
    values, so that no threshold counts them; `rows` leaves them out.
    """

    weight_below: Float32[np.ndarray, "longest old new_width"]
    rows: Int64[np.ndarray, " new"]


@lru_cache(maxsize=64)
def _cells(old: int, new: int, new_width: int) -> _Cells:
    at = places(old, new, CPU)
    num_rows = np.bincount(at.before.numpy(), minlength=old)[:, None]
    step = np.arange(num_rows.max())
    place = np.cumsum(num_rows)[:, None] - num_rows + step
    weights = at.weight_after.numpy()[np.minimum(place, new - 1)]
    weights[step >= num_rows] = np.nan
    return _Cells(
        # One for each pixel, not for each row: numpy is fast where it need not repeat.
        weight_below=np.repeat(weights.T[:, :, None], new_width, axis=2),
        rows=np.flatnonzero(step < num_rows),
    )


def bands(length: int, *, bytes_per_row: int, byte_budget: int) -> Iterator[slice]:
    """Rows up to `length` in bands of at least one, within the budget if they can be."""
    step = max(1, byte_budget // max(1, bytes_per_row))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))

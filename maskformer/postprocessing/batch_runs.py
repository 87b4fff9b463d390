"""The runs of equal ids in the maps of a batch, found on its device and without a wait for it.

Takes the winners of `batch_argmax.py` and the id of each; `batch_segments.py` copies what comes
out to the host. How many runs there are is known to the device alone. So there is room for a
number of runs that is given, and the number that would have been needed comes with them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int16, Int32, Integer
from torch import Tensor

from maskformer.postprocessing.batch_argmax import on_device, programs
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes


@dataclass(frozen=True, kw_only=True)
class BatchRuns:
    """The runs of a batch, image after image; undefined beyond the sum of `num_runs`."""

    starts: Int32[Tensor, " capacity"]
    """Where a run starts, among the pixels of its image, column by column."""

    run_ids: Int16[Tensor, " capacity"]
    num_runs: Int32[Tensor, " batch"]
    """How many each image has, also where there is no room for them."""


def runs_of_batch(
    winner: Int16[Tensor, " pixels"],
    ids: Int16[Tensor, "batch maps"],
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    capacity: int,
    uses_kernels: bool,
) -> BatchRuns:
    """Finds the runs of each image, where each number of a map in `winner` stands for its id."""
    if uses_kernels:
        return _by_kernels(winner, ids, geometry, sizes, capacity=capacity)
    return _by_plain_operations(winner, ids, geometry, sizes, capacity=capacity)


def _by_kernels(
    winner: Tensor,
    ids: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    capacity: int,
) -> BatchRuns:
    from maskformer.postprocessing import batch_kernels

    grid = programs(geometry)
    device = winner.device
    counts = torch.empty(grid[1], grid[0], dtype=torch.int32, device=device)
    starts = torch.empty(capacity, dtype=torch.int32, device=device)
    run_ids = torch.empty(capacity, dtype=torch.int16, device=device)
    maps = ids.contiguous()
    count: Any = batch_kernels.count_runs
    write: Any = batch_kernels.write_runs
    constants = {"num_columns": ids.shape[1], "block": batch_kernels.BLOCK, **batch_kernels.OPTIONS}
    with on_device(device):
        count[grid](winner, maps, sizes.sizes, counts, **constants)
        ends = counts.flatten().cumsum(0, dtype=torch.int32)
        write[grid](winner, maps, sizes.sizes, ends, starts, run_ids, capacity, **constants)
    return BatchRuns(starts=starts, run_ids=run_ids, num_runs=counts.sum(1, dtype=torch.int32))


def _by_plain_operations(
    winner: Tensor,
    ids: Integer[Tensor, "batch maps"],
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    capacity: int,
) -> BatchRuns:
    batch_size, num_maps = ids.shape
    height, width, first = sizes.sizes[:, :3].unbind(1)
    pixels = height * width
    # With its size given, nobody has to ask the device for it.
    image_of = torch.repeat_interleave(
        torch.arange(batch_size, device=winner.device),
        pixels,
        output_size=int(geometry.pixels.sum()),
    )
    here = ids.flatten()[image_of * num_maps + winner]
    is_start = torch.ones_like(here, dtype=torch.bool)
    torch.ne(here[1:], here[:-1], out=is_start[1:])
    is_start.index_fill_(0, first, True)
    # One wait less than nonzero, which asks how many there are.
    places = torch.nonzero_static(is_start, size=capacity, fill_value=0).squeeze(1)
    runs_until = is_start.cumsum(0, dtype=torch.int32)[first + pixels - 1]
    return BatchRuns(
        starts=(places - first[image_of[places]]).to(torch.int32),
        run_ids=here[places],
        num_runs=torch.diff(runs_until, prepend=runs_until.new_zeros(1)),
    )


def capacity_of(geometry: BatchGeometry, *, runs_per_column: float) -> int:
    """Returns the room for so many runs in each column of pixels, on average."""
    return max(len(geometry.images), math.ceil(geometry.num_columns * runs_per_column))

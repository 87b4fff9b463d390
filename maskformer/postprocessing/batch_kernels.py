"""Triton kernels of `batch_argmax.py` and `batch_runs.py`: what plain operations do there, fused.

Each value is computed by the operations of `bilinear.py` in their order; a launch forbids fusing a
multiplication with an addition. So winners, areas and runs equal those of plain operations, except
where the exponential of a sigmoid differs in its last bit. `TRITON_INTERPRET=1` runs all of it on a
CPU.

Pixels of a batch stand in one row, image after image and column by column within an image, as run
lengths count them. `sizes` has height, width and first pixel of each image, then height and width
of what is resized to it; `scales` has two steps of resizing, for rows and columns each.
"""

from typing import no_type_check

import triton
import triton.language as tl

BLOCK = 512
"""Pixels of a program."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""Of every launch."""

# Other values of these compile no other kernel, nor does another place of the areas, which follow
# the numbers of pixels won in memory.
_SIZES = ("map_height", "map_width", "num_planes")


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=("areas",))
@no_type_check
def resized_argmax(
    maps,
    order,
    num_maps,
    weights,
    thresholds,
    totals,
    sizes,
    scales,
    winner,
    won,
    areas,
    share_sums,
    map_height,
    map_width,
    num_planes,
    num_columns: tl.constexpr,
    is_padded: tl.constexpr,
    has_shares: tl.constexpr,
    block: tl.constexpr,
):
    """Writes the highest map of each pixel, and adds to the areas of each.

    Without shares, maps are visited in `order`; with shares all are, and the highest one's share in
    `totals` is added up.
    """
    image = tl.program_id(1).to(tl.int64)
    height = tl.load(sizes + 5 * image).to(tl.int32)
    width = tl.load(sizes + 5 * image + 1).to(tl.int32)
    first_pixel = tl.load(sizes + 5 * image + 2)
    start = tl.program_id(0) * block
    if start >= height * width:
        return
    pixel = start + tl.arange(0, block)
    is_inside = pixel < height * width
    top, bottom, weight_bottom, left, right, weight_right = rows_and_columns(
        sizes, scales, image, pixel
    )
    plane_size = map_height * map_width
    row_scale = tl.load(scales + 4 * image + 2)
    column_scale = tl.load(scales + 4 * image + 3)
    highest = tl.full((block,), -float("inf"), tl.float32)
    leader = tl.zeros((block,), tl.int32)
    count = tl.load(num_maps + image).to(tl.int32)
    for rank in range(count):
        if has_shares:  # noqa: SIM108 - only one of both is compiled
            plane = rank
        else:
            plane = tl.load(order + image * num_columns + rank)
        base = maps + (image * num_planes + plane) * plane_size
        if is_padded:
            value = resized_twice(
                base, top, bottom, weight_bottom, left, right, weight_right,
                row_scale, column_scale, map_height, map_width,
            )  # fmt: skip
            value = 1.0 / (1.0 + tl.exp(-value))
            value = value * tl.load(weights + image * num_columns + rank)
        else:
            value = resized(base, top, bottom, weight_bottom, left, right, weight_right, map_width)
        if not has_shares:
            is_own = (value >= tl.load(thresholds + image * num_columns + rank)) & is_inside
            tl.atomic_add(areas + image * num_columns + rank, tl.sum(is_own.to(tl.int32), 0))
        leads = value > highest
        highest = tl.where(leads, value, highest)
        leader = tl.where(leads, rank, leader)
    tl.store(winner + first_pixel + pixel, leader.to(tl.int16), mask=is_inside)
    if has_shares:
        of_leader = maps + (image * num_planes + leader) * plane_size
        share = _shares(
            of_leader, totals + image * plane_size,
            top, bottom, weight_bottom, left, right, weight_right, map_width,
        )  # fmt: skip
    for rank in range(count):
        is_won = (leader == rank) & is_inside
        pixels = tl.sum(is_won.to(tl.int32), 0)
        if pixels > 0:
            tl.atomic_add(won + image * num_columns + rank, pixels)
            if has_shares:
                shares = tl.sum(tl.where(is_won, share.to(tl.float64), 0.0), 0)
                tl.atomic_add(share_sums + image * num_columns + rank, shares)


@triton.jit
@no_type_check
def rows_and_columns(sizes, scales, image, pixel):
    """Returns the rows and columns around pixels, and the weights of the latter ones.

    Beyond the last pixel, columns are cut to the last one too: no load needs a mask.
    """
    height = tl.load(sizes + 5 * image).to(tl.int32)
    source_height = tl.load(sizes + 5 * image + 3).to(tl.int32)
    source_width = tl.load(sizes + 5 * image + 4).to(tl.int32)
    top, bottom, weight_bottom = _between(
        pixel % height, tl.load(scales + 4 * image), source_height
    )
    left, right, weight_right = _between(
        pixel // height, tl.load(scales + 4 * image + 1), source_width
    )
    return top, bottom, weight_bottom, left, right, weight_right


@triton.jit
@no_type_check
def _between(new, scale, old):
    """`bilinear.interpolation_grid`: the samples before and after, and the weight of the latter."""
    position = tl.maximum((new.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(position.to(tl.int32), old - 1)
    return before, tl.minimum(before + 1, old - 1), position - before.to(tl.float32)


@triton.jit
@no_type_check
def resized(base, top, bottom, weight_bottom, left, right, weight_right, width):
    """`bilinear.resample` at one position: along columns, then along rows."""
    top_left = tl.load(base + top * width + left).to(tl.float32)
    top_right = tl.load(base + top * width + right).to(tl.float32)
    bottom_left = tl.load(base + bottom * width + left).to(tl.float32)
    bottom_right = tl.load(base + bottom * width + right).to(tl.float32)
    above = (top_right - top_left) * weight_right + top_left
    below = (bottom_right - bottom_left) * weight_right + bottom_left
    return (below - above) * weight_bottom + above


@triton.jit
@no_type_check
def resized_twice(
    base, top, bottom, weight_bottom, left, right, weight_right,
    row_scale, column_scale, height, width,
):  # fmt: skip
    """The value of maps that are enlarged to the network's input, then resized."""
    top_1, top_2, top_weight = _between(top, row_scale, height)
    bottom_1, bottom_2, bottom_weight = _between(bottom, row_scale, height)
    left_1, left_2, left_weight = _between(left, column_scale, width)
    right_1, right_2, right_weight = _between(right, column_scale, width)
    top_left = resized(base, top_1, top_2, top_weight, left_1, left_2, left_weight, width)
    top_right = resized(base, top_1, top_2, top_weight, right_1, right_2, right_weight, width)
    above = (top_right - top_left) * weight_right + top_left
    bottom_left = resized(
        base, bottom_1, bottom_2, bottom_weight, left_1, left_2, left_weight, width
    )
    bottom_right = resized(
        base, bottom_1, bottom_2, bottom_weight, right_1, right_2, right_weight, width
    )
    below = (bottom_right - bottom_left) * weight_right + bottom_left
    return (below - above) * weight_bottom + above


@triton.jit
@no_type_check
def _shares(base, totals, top, bottom, weight_bottom, left, right, weight_right, width):
    """The share of the maps at `base` in `totals`, both resized, as `semantic_segments` has it."""
    above = tl.load(base + top * width + left) * (1 - weight_right)
    above = above + tl.load(base + top * width + right) * weight_right
    below = tl.load(base + bottom * width + left) * (1 - weight_right)
    below = below + tl.load(base + bottom * width + right) * weight_right
    share = above * (1 - weight_bottom) + below * weight_bottom
    total = resized(totals, top, bottom, weight_bottom, left, right, weight_right, width)
    return tl.div_rn(share, tl.maximum(total, 1.1754943508222875e-38))


@triton.jit
@no_type_check
def count_runs(
    winner, ids, sizes, counts, num_columns: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """Counts the runs that start in each program's pixels."""
    is_start, _, _, _ = _starts(winner, ids, sizes, num_columns, block)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(counts + program, tl.sum(is_start.to(tl.int32), 0))


@triton.jit(do_not_specialize=("capacity",))
@no_type_check
def write_runs(
    winner,
    ids,
    sizes,
    ends,
    starts,
    run_ids,
    capacity,
    num_columns: tl.constexpr,
    block: tl.constexpr,
):
    """Writes where each run starts and its id; `ends` are the sums of counts up to each program.

    Runs beyond `capacity` are left out.
    """
    is_start, here, pixel, total = _starts(winner, ids, sizes, num_columns, block)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    number = is_start.to(tl.int32)
    place = tl.load(ends + program) - total + tl.cumsum(number, 0) - 1
    is_kept = is_start & (place < capacity)
    tl.store(starts + place, pixel, mask=is_kept)
    tl.store(run_ids + place, here.to(tl.int16), mask=is_kept)


@triton.jit
@no_type_check
def _starts(winner, ids, sizes, num_columns: tl.constexpr, block: tl.constexpr):
    """Finds the pixels that start a run; gives their ids, places in the image, and number.

    A program outside of its image has none.
    """
    image = tl.program_id(1).to(tl.int64)
    num_pixels = (tl.load(sizes + 5 * image) * tl.load(sizes + 5 * image + 1)).to(tl.int32)
    first_pixel = tl.load(sizes + 5 * image + 2)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    is_inside = pixel < num_pixels
    place = winner + first_pixel + pixel
    # Where nothing is loaded, 0 is a valid number of a map.
    number = tl.load(place, mask=is_inside, other=0).to(tl.int32)
    has_before = is_inside & (pixel > 0)
    number_before = tl.load(place - 1, mask=has_before, other=0).to(tl.int32)
    here = tl.load(ids + image * num_columns + number)
    before = tl.load(ids + image * num_columns + number_before)
    is_start = is_inside & ((pixel == 0) | (here != before))
    return is_start, here, pixel, tl.sum(is_start.to(tl.int32), 0)

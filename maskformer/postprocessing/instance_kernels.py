"""Triton kernels of `batch_instances.py`: what plain operations do there, fused.

As those of `batch_kernels.py`, which says how pixels and sizes are laid out: values, and so masks
and places, equal those of plain operations. `TRITON_INTERPRET=1` runs all of it on a CPU.
"""

from typing import no_type_check

import triton
import triton.language as tl

from maskformer.postprocessing.batch_kernels import resized, resized_twice, rows_and_columns

BITS = 32
"""Of a number that notes which masks cover a pixel."""

PLACE_BLOCK = 4096
"""Pixels that a program places at a time; it goes through all of an image."""

PLACE_OPTIONS = {"num_warps": 16, "enable_fp_fusion": False}


@triton.jit(do_not_specialize=("logit", "map_height", "map_width", "num_planes", "num_pixels"))
@no_type_check
def note_covers(
    maps,
    queries,
    num_candidates,
    sizes,
    scales,
    covers,
    areas,
    logit,
    map_height,
    map_width,
    num_planes,
    num_pixels,
    num_columns: tl.constexpr,
    is_padded: tl.constexpr,
    bits_of_word: tl.constexpr,
    block: tl.constexpr,
):
    """Notes of each pixel which candidates' masks cover it, a bit each, and adds up their areas."""
    image = tl.program_id(1).to(tl.int64)
    image_pixels = (tl.load(sizes + 5 * image) * tl.load(sizes + 5 * image + 1)).to(tl.int32)
    start = tl.program_id(0) * block
    if start >= image_pixels:
        return
    pixel = start + tl.arange(0, block)
    is_inside = pixel < image_pixels
    top, bottom, weight_bottom, left, right, weight_right = rows_and_columns(
        sizes, scales, image, pixel
    )
    row_scale = tl.load(scales + 4 * image + 2)
    column_scale = tl.load(scales + 4 * image + 3)
    # The row of all pixels may be longer than a number of 32 bits counts.
    place = covers + tl.load(sizes + 5 * image + 2) + pixel
    count = tl.load(num_candidates + image).to(tl.int32)
    bits = tl.zeros((block,), tl.int32)
    for rank in range(count):
        plane = tl.load(queries + image * num_columns + rank)
        base = maps + (image * num_planes + plane) * map_height * map_width
        if is_padded:
            value = resized_twice(
                base, top, bottom, weight_bottom, left, right, weight_right,
                row_scale, column_scale, map_height, map_width,
            )  # fmt: skip
        else:
            value = resized(base, top, bottom, weight_bottom, left, right, weight_right, map_width)
        is_covered = ((value > logit) & is_inside).to(tl.int32)
        tl.atomic_add(areas + image * num_columns + rank, tl.sum(is_covered, 0))
        bits = bits | (is_covered << (rank % bits_of_word))
        if (rank % bits_of_word == bits_of_word - 1) | (rank == count - 1):
            tl.store(place + rank // bits_of_word * num_pixels.to(tl.int64), bits, mask=is_inside)
            bits = tl.zeros((block,), tl.int32)


# The numbers of free pixels follow the areas in memory.
@triton.jit(do_not_specialize=("num_pixels",), do_not_specialize_on_alignment=("free",))
@no_type_check
def place(
    covers,
    needed,
    num_candidates,
    sizes,
    owner,
    free,
    num_pixels,
    num_columns: tl.constexpr,
    bits_of_word: tl.constexpr,
    block: tl.constexpr,
):
    """Gives each candidate, best first, the pixels of its mask that are free, if they are enough.

    `owner` comes with `num_columns` at all pixels. One program places all candidates of an image.
    """
    image = tl.program_id(0).to(tl.int64)
    image_pixels = (tl.load(sizes + 5 * image) * tl.load(sizes + 5 * image + 1)).to(tl.int32)
    first_pixel = tl.load(sizes + 5 * image + 2)
    own = owner + first_pixel
    count = tl.load(num_candidates + image).to(tl.int32)
    for rank in range(count):
        of_rank = covers + rank // bits_of_word * num_pixels.to(tl.int64) + first_pixel
        found = tl.zeros((block,), tl.int32)
        for start in range(0, image_pixels, block):
            pixel = start + tl.arange(0, block)
            found += _is_free(
                of_rank, own, pixel, pixel < image_pixels, rank, num_columns, bits_of_word
            )
        num_free = tl.sum(found, 0)
        tl.store(free + image * num_columns + rank, num_free)
        if num_free >= tl.load(needed + image * num_columns + rank):
            here = (tl.zeros((block,), tl.int32) + rank).to(tl.int16)
            for start in range(0, image_pixels, block):
                pixel = start + tl.arange(0, block)
                is_free = _is_free(
                    of_rank, own, pixel, pixel < image_pixels, rank, num_columns, bits_of_word
                )
                tl.store(own + pixel, here, mask=is_free == 1)
            # Threads read for the next candidate what others have written.
            tl.debug_barrier()


@triton.jit
@no_type_check
def _is_free(
    covers, owner, pixel, is_inside, rank, num_columns: tl.constexpr, bits_of_word: tl.constexpr
):
    """Gives 1 for pixels that a candidate's mask covers and nobody has, else 0."""
    bits = tl.load(covers + pixel, mask=is_inside, other=0)
    taken_by = tl.load(owner + pixel, mask=is_inside, other=0)
    return tl.where(taken_by == num_columns, (bits >> (rank % bits_of_word)) & 1, 0)

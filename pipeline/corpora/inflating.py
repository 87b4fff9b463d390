"""Counts the bytes that deflated data hold, without keeping them."""

import zlib
from collections.abc import Iterable

_STEP_BYTES = 2**20


def inflated_size(parts: Iterable[bytes], *, most: int) -> int:
    """Returns the number of bytes that a zlib stream holds, counted up to `most` and a step more.

    Raises:
        zlib.error: the stream is damaged.
    """
    inflater = zlib.decompressobj()
    size = 0
    for part in parts:
        is_full = False  # a full step may have left bytes inside
        while (part or is_full) and size < most and not inflater.eof:
            step = len(inflater.decompress(part, _STEP_BYTES))
            size, part, is_full = size + step, inflater.unconsumed_tail, step == _STEP_BYTES
    return size

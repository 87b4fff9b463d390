"""Run-length encoding: COCO's compressed masks, and how to read one.

COCO flattens a mask column by column, counts the lengths of its runs of zeros and ones in turn,
beginning with zeros, writes each count from the fourth on as the difference to the one before the
last, and packs that into characters of five bits. `segment_shapes.py` writes them.
"""

import numpy as np
from jaxtyping import Bool, Int64

BITS = 5
SIGN = 1 << (BITS - 1)
MORE = 1 << BITS
FIRST_CHARACTER = 48
LAST_PLACE = 10
"""Of a character in a count: eleven hold 55 bits, which are more than any image has pixels."""


def decode_rle(rle: str, *, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask that `rle` encodes, of the size that it was encoded with."""
    counts = counts_of(rle, height=height, width=width)
    is_inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_inside, counts).reshape(width, height).T


def counts_of(rle: str, *, height: int, width: int) -> Int64[np.ndarray, " counts"]:
    """The lengths of its runs, of pixels outside and inside the mask in turn.

    Raises:
        ValueError: they are no mask of that size.
    """
    pixels = height * width
    counts = _unpack(rle, pixels=pixels)
    total = int(counts.sum())
    if total != pixels or counts.min() < 0 or counts.max() > pixels:
        raise ValueError(
            f"the counts of an rle must add up to its mask's pixels, got {total} for "
            f"{height}x{width} = {pixels}; height and width are those of the full image"
        )
    return counts


def _unpack(rle: str, *, pixels: int) -> Int64[np.ndarray, " counts"]:
    # No byte of a character beyond ASCII is a code.
    codes = np.frombuffer(rle.encode(errors="surrogatepass"), np.uint8).astype(np.int64)
    codes -= FIRST_CHARACTER
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * MORE or codes[-1] & MORE:
        raise ValueError(f"an rle is COCO's compressed counts, got {rle[:40]!r}")
    is_last = (codes & MORE) == 0
    firsts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    places = np.arange(len(codes)) - np.repeat(firsts, np.diff(np.append(firsts, len(codes))))
    if places.max() > LAST_PLACE:
        raise ValueError(f"a count of an rle has at most {LAST_PLACE + 1} characters: {rle[:40]!r}")
    values = np.add.reduceat((codes & (MORE - 1)) << (BITS * places), firsts)
    num_bits = BITS * (places[is_last] + 1)
    is_negative = (codes[is_last] & SIGN) != 0
    values = np.where(is_negative, values - (1 << num_bits), values)
    # Their sums would wrap round, and may come out right.
    if (np.abs(values) > pixels).any():
        raise ValueError(
            f"the counts of an rle must add up to its mask's {pixels} pixels, got "
            f"{values[np.abs(values).argmax()]} in one"
        )
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

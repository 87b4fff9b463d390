"""Encodes and decodes the brush of Label Studio: a bit stream of RGBA values, row by row.

    32 bits             number of values: 4 for each pixel
    5 bits              bits of a value, minus 1
    4 times 4 bits      bits of a length, minus 1, of each of four kinds of lengths
    records until the number of values is reached:
        1 bit           1: the value is repeated; 0: the values stand one by one
        2 bits          kind of the length
        that many bits  length, minus 1
        value or values

A task's JSON holds the bytes as a list of numbers. The format is that of `rle-pack` (thi.ng), which
Label Studio's page uses.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

_VALUE_BITS = 8
_LENGTH_BITS = np.array([3, 4, 8, 16], np.int64)
"""Those that Label Studio's own tools write."""
_LONGEST = 1 << int(_LENGTH_BITS[-1])
_HEADER_BITS = 32 + 5 + 4 * 4
_MOST_VALUES = (1 << 32) - 1
_OPAQUE = 128


def encode_brush(runs: Int64[np.ndarray, "runs 2"], *, height: int, width: int) -> list[int]:
    """Returns the bytes of a mask: 255 in all four channels inside, 0 outside.

    Byte for byte those of `label_studio_sdk.converter.brush.mask2rle`.

    Args:
        runs: where each run begins and ends, in pixels along the rows; ascending, apart.

    Raises:
        ValueError: the image has more values than the format can count.
    """
    num_values = 4 * height * width
    if num_values > _MOST_VALUES:
        raise ValueError(f"Label Studio's brush holds 2^30 pixels, an image has {height}x{width}")
    edges = np.concatenate([[0], 4 * runs.ravel(), [num_values]])
    lengths = np.diff(edges)
    values = np.where(np.arange(len(lengths)) % 2 == 1, 255, 0)
    is_run = lengths > 0  # of pixels outside, before the first pixel and behind the last
    lengths, values = _in_pieces(lengths[is_run], values[is_run])
    kinds = np.searchsorted(1 << _LENGTH_BITS, lengths)
    length_bits = _LENGTH_BITS[kinds]
    record_bits = 3 + length_bits + _VALUE_BITS
    records = (4 | kinds) << (length_bits + _VALUE_BITS)
    records |= (lengths - 1) << _VALUE_BITS
    records |= values
    header = np.array([num_values, _VALUE_BITS - 1, *(_LENGTH_BITS - 1)], np.int64)
    bits = np.concatenate(
        [
            _bits(header, np.array([32, 5, 4, 4, 4, 4])),
            _bits(records, record_bits),
            # Label Studio's tools add a byte of zeros where the stream ends with a byte.
            np.zeros(1, np.uint8),
        ]
    )
    return np.packbits(bits).tolist()


def decode_brush(
    data: Sequence[int] | bytes, *, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Returns the pixels whose fourth channel is at least half opaque.

    Raises:
        ValueError: the data is no brush, or of an image of another size.
    """
    lengths, values, value_bits = _runs_of_values(_as_bytes(data), num_values=4 * height * width)
    # The fourth channel is every fourth value.
    pixels = np.diff(np.cumsum(lengths) // 4, prepend=0)
    is_inside = values >= _OPAQUE >> 8 - min(value_bits, 8)
    return np.repeat(is_inside, pixels).reshape(height, width)


def _as_bytes(data: Sequence[int] | bytes) -> bytes:
    try:
        return bytes(data)
    except (TypeError, ValueError):
        raise ValueError("rle must be a list of bytes, whole numbers from 0 to 255") from None


def _in_pieces(
    lengths: Int64[np.ndarray, " runs"], values: Int64[np.ndarray, " runs"]
) -> tuple[Int64[np.ndarray, " records"], Int64[np.ndarray, " records"]]:
    """Splits runs that are longer than a record can say; the last piece is the short one."""
    pieces = -(-lengths // _LONGEST)
    if (pieces == 1).all():
        return lengths, values
    split = np.full(int(pieces.sum()), _LONGEST)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    return split, np.repeat(values, pieces)


def _bits(
    numbers: Int64[np.ndarray, " numbers"], num_bits: Int64[np.ndarray, " numbers"]
) -> np.ndarray:
    """Returns the lowest bits of each number, one after the other, the highest first."""
    spread = np.unpackbits(numbers.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return spread[np.arange(32) >= 32 - num_bits[:, None]]


def _runs_of_values(
    data: bytes, *, num_values: int
) -> tuple[Int64[np.ndarray, " runs"], Int64[np.ndarray, " runs"], int]:
    """Returns lengths and values of the runs, and the bits of a value."""
    if len(data) * 8 < _HEADER_BITS:
        raise ValueError(f"rle must have a header of {_HEADER_BITS} bits, got {len(data)} bytes")
    header = int.from_bytes(data[:7], "big") >> 56 - _HEADER_BITS
    if (told := header >> 21) != num_values:
        raise ValueError(
            f"rle must hold 4 values for each of {num_values // 4} pixels, got {told} values; "
            "original_width and original_height are those of the full image"
        )
    value_bits = (header >> 16 & 31) + 1
    length_bits = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    stream = _BitStream(data)
    starts, counts, repeated = _records(
        stream, num_values=num_values, value_bits=value_bits, length_bits=length_bits
    )
    # A repeated value stands once; the others one by one.
    stands = np.where(repeated, 1, counts)
    first = np.repeat(np.cumsum(stands) - stands, stands)
    places = np.repeat(starts, stands) + (np.arange(int(stands.sum())) - first) * value_bits
    lengths = np.repeat(np.where(repeated, counts, 1), stands)
    return lengths, stream.read_at(places, value_bits), value_bits


def _records(
    stream: "_BitStream", *, num_values: int, value_bits: int, length_bits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walks over the records.

    Returns for each the bit at which its values start, its length, and whether one is repeated.
    """
    starts, counts, repeated = [], [], []
    position, done = _HEADER_BITS, 0
    while done < num_values:
        head = stream.read(position, 3)
        bits = length_bits[head & 3]
        count = stream.read(position + 3, bits) + 1
        position += 3 + bits
        starts.append(position)
        counts.append(count)
        repeated.append(head >= 4)
        position += value_bits if head >= 4 else count * value_bits
        done += count
        if position > stream.num_bits:
            raise ValueError(f"rle ends after {done} of {num_values} values; it is cut off")
    if done > num_values:
        raise ValueError(f"rle must hold {num_values} values, got {done}")
    return np.array(starts), np.array(counts), np.array(repeated)


class _BitStream:
    """Reads whole numbers of up to 32 bits at any bit."""

    def __init__(self, data: bytes) -> None:
        self.num_bits = 8 * len(data)
        self._data = data + bytes(8)
        windows = np.frombuffer(self._data, np.uint8).astype(np.uint64)
        self._windows = sum(
            (windows[at : len(windows) - 4 + at] << np.uint64(8 * (4 - at)) for at in range(5)),
            start=np.zeros(len(windows) - 4, np.uint64),
        )
        """The five bytes from each byte on, as one number."""

    def read(self, position: int, num_bits: int) -> int:
        byte = position >> 3
        window = int.from_bytes(self._data[byte : byte + 5], "big")
        return window >> 40 - (position & 7) - num_bits & (1 << num_bits) - 1

    def read_at(self, positions: Int64[np.ndarray, " numbers"], num_bits: int) -> np.ndarray:
        shifts = (40 - (positions & 7) - num_bits).astype(np.uint64)
        mask = np.uint64((1 << num_bits) - 1)
        return (self._windows[positions >> 3] >> shifts & mask).astype(np.int64)

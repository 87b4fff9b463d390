"""Stored tensors: a file's numbers before they are read.

What `files.py` finds and `checkpoint.py` makes tensors of. No torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of an element, by the types that weights come in, which have torch's names."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: a strided look at a piece of it.

    Raises:
        ValueError: it is larger than its piece, or reaches out of it.
    """

    data: memoryview
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Of each axis, in elements."""
    offset: int = 0
    """Of the first element, in elements."""

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.strides, self.offset)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"shape, strides and offset must be numbers from 0, got {numbers}")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"a shape of {self.shape} needs as many strides, got {self.strides}")
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"the type must be one of {', '.join(ITEM_BYTES)}, got {self.dtype}")
        size = math.prod(self.shape)
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        needed = (max(self.offset + last + 1, size) if size else 0) * ITEM_BYTES[self.dtype]
        if needed > len(self.data):
            raise ValueError(
                f"a tensor of {'x'.join(map(str, self.shape))} {self.dtype} needs {needed:,} "
                f"bytes, the file has {len(self.data):,} for it"
            )

    def __getitem__(self, rows: slice) -> "StoredTensor":
        start, stop, _ = rows.indices(self.shape[0])
        return replace(
            self,
            shape=(max(stop - start, 0), *self.shape[1:]),
            offset=self.offset + start * self.strides[0],
        )


def contiguous(data: memoryview, *, dtype: str, shape: Sequence[int]) -> StoredTensor:
    """The tensor whose elements lie row by row."""
    shape = tuple(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return StoredTensor(data=data, dtype=dtype, shape=shape, strides=tuple(strides))

"""Files of weights: what each holds, before any of it is read.

Takes a file of any format (safetensors, torch's, Detectron2's pickles), told apart by its first
bytes; gives shapes, types and where the numbers lie, without torch. Files are mapped, not read: a
header is all that is looked at, nothing in a file is called, and nothing is allocated on its word.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskformer.checkpoints.stored import ITEM_BYTES, StoredTensor, contiguous
from maskformer.checkpoints.torch_files import pickled_tensors

_SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def stored_tensors(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by the names it gives them.

    Raises:
        ValueError: it is damaged, or holds more than tensors, in one line.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0 and path.suffix != ".safetensors":
        raise ValueError(f"{path} is empty; copy the weights again")
    mapped = _mapped(path)
    if path.suffix == ".safetensors" or mapped[8:9] == b"{":
        return _of_safetensors(mapped, path=path)
    try:
        return pickled_tensors(mapped)
    except ValueError as error:
        raise ValueError(
            f"{path} ({size:,} bytes) must hold tensors and no more: {error}"
        ) from error


def _mapped(path: Path) -> memoryview:
    if path.stat().st_size == 0:
        return memoryview(b"")
    with path.open("rb") as file:
        # A private mapping may be written to, as torch wants of memory; the file stays as it is.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _of_safetensors(mapped: memoryview, *, path: Path) -> dict[str, StoredTensor]:
    size = len(mapped)
    length = struct.unpack("<Q", mapped[:8])[0] if size >= 8 else size
    # A header longer than its file is rubbish.
    header = bytes(mapped[8 : 8 + length]) if 8 + length <= size else b""
    try:
        described: Mapping[str, Any] = json.loads(header)
        described = {k: v for k, v in described.items() if k != "__metadata__"}
        spans = {name: _span(value) for name, value in described.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file (it has {size} bytes); copy it again"
        ) from error
    expected = 8 + length + max((end for _, end in spans.values()), default=0)
    if expected != size:
        raise ValueError(
            f"{path} must have {expected} bytes by its own header, it has {size}; copy it again"
        )
    return {
        name: _of_header(mapped[8 + length :], name=name, value=value, path=path)
        for name, value in described.items()
    }


def _span(value: Mapping[str, Any]) -> tuple[int, int]:
    start, end = value["data_offsets"]
    if not type(start) is type(end) is int or not 0 <= start <= end:
        raise ValueError(f"data_offsets must be two numbers in order, got {start} and {end}")
    return start, end


def _of_header(
    data: memoryview, *, name: str, value: Mapping[str, Any], path: Path
) -> StoredTensor:
    start, end = _span(value)
    try:
        dtype = _SAFETENSORS_TYPES.get(str(value["dtype"]), str(value["dtype"]))
        tensor = contiguous(data[start:end], dtype=dtype, shape=value["shape"])
        if math.prod(tensor.shape) * ITEM_BYTES[dtype] != end - start:
            raise ValueError(
                f"its shape {list(tensor.shape)} of {dtype} does not fill its {end - start} bytes"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} describes {name!r} wrongly: {error}; copy it again") from error
    return tensor

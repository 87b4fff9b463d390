"""Counts what a call asks of a device, on a CPU: operations, and reads that the host waits for."""

import math
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that start nothing on a GPU: they change how memory is looked at, or reserve it.
_FREE = {
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "select", "slice", "narrow",
    "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind", "unflatten",
    "as_strided", "_reshape_alias", "detach", "alias", "empty", "empty_like", "empty_strided",
    "new_empty", "lift_fresh", "resolve_conj", "resolve_neg", "promote_types",
}  # fmt: skip
# These take nothing of their tensor but its kind.
_MAKE = {"new_zeros", "zeros_like", "new_full", "full_like", "ones_like"}
# Each of these reads a tensor into Python, for which the host waits until the device is done.
_READS = {
    getattr(torch.Tensor, name)
    for name in ["cpu", "item", "tolist", "__bool__", "__int__", "__float__", "__index__"]
}
# The size of what these give is known on the device alone, and the host waits for it.
_OF_UNKNOWN_SIZE = {"nonzero", "masked_select", "unique_dim", "_unique2"}


class _Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = operation.overloadpacket.__name__
        if name not in _FREE:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


def launches(call: Callable[[], Any]) -> Counter[str]:
    """Counts the operations that a GPU would be asked for, by name; backward passes too."""
    with _Launches() as counted:
        call()
    return counted.counts


# These write the rows of their index alone, into a tensor that they also return.
_OF_ROWS = {"index_fill_", "index_copy_"}


class _Bytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        if starts_something(operation):
            self.total += bytes_of(operation, args, kwargs, result)
        return result


def starts_something(operation: Any) -> bool:
    """Returns whether a GPU would be asked for something."""
    return operation.overloadpacket.__name__ not in _FREE


def bytes_of(operation: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Counts the bytes that one operation reads and writes."""
    name = operation.overloadpacket.__name__
    if name in _OF_ROWS:
        whole, dim, index = args[:3]
        sources = [each for each in args[3:] if isinstance(each, torch.Tensor)]
        written = whole.nbytes * len(index) // whole.shape[dim]
        return written + sum(_own_bytes(source) for source in sources)
    parts = tree_leaves((() if name in _MAKE else (args, kwargs), result))
    return sum(_own_bytes(part) for part in parts if isinstance(part, torch.Tensor))


def _own_bytes(tensor: torch.Tensor) -> int:
    """Returns the bytes that are there to be read; expanded dimensions repeat the same."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride)


def bytes_moved(call: Callable[[], Any]) -> int:
    """Counts the bytes that a call's operations read and write, each operation by itself."""
    with _Bytes() as counted:
        call()
    return counted.total


class _PythonReads(TorchFunctionMode):
    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function in _READS:
            self._places.append(_place())
        return function(*args, **(kwargs or {}))


class _SizeReads(TorchDispatchMode):
    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = operation.overloadpacket.__name__
        indices = args[1] if name.startswith(("index", "_index")) and len(args) > 1 else ()
        by_mask = isinstance(indices, list | tuple) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices
        )
        if name in _OF_UNKNOWN_SIZE or by_mask:
            self._places.append(_place())
        return operation(*args, **(kwargs or {}))


def reads(call: Callable[[], Any]) -> list[str]:
    """Returns where the host reads from tensors, as file:line; on a GPU it would wait there.

    Views of a CPU's memory that were taken before, as of a buffer that a GPU copies into, do not
    count.
    """
    places: list[str] = []
    with _SizeReads(places), _PythonReads(places):
        call()
    return places


def _place() -> str:
    """Returns the innermost line of the project's own code."""
    own = [
        frame
        for frame in traceback.extract_stack()
        if "/maskformer/" in frame.filename or "/pipeline/" in frame.filename
    ]
    frame = own[-1] if own else traceback.extract_stack()[0]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"

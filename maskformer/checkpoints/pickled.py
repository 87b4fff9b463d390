"""Pickles of tensors, interpreted as data: nothing in them is called.

Takes the program of a pickle that `torch_files.py` found; returns what it builds. The interpreter
knows how lists, dictionaries, torch's tensors and numpy's arrays are made, refuses everything else,
and makes nothing larger than the file. It starts without torch.

The libraries do not keep these promises. `pickle.Unpickler` with an allow-list takes 2 GB for a
program of 9 bytes (one memo slot with a high number), and crashes the process on 400 kB of nested
tuples used as a key. `torch.load(weights_only=True)` maps no file of torch before 1.6, reads
compressed records as if they were numbers when it maps a file, and unpacks 500 MB of 0.5 MB when it
does not.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from typing import Any, Protocol, runtime_checkable

from maskformer.checkpoints.stored import StoredTensor, contiguous

# Ten times what the largest checkpoint takes: a bomb makes a list of each byte.
_MOST_STEPS = 300_000

_LONGEST_LINE = 1000

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_NUMPY_TYPES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}


@runtime_checkable
class PickledTensor(Protocol):
    """A tensor or an array that a program has built."""

    def stored(self) -> StoredTensor: ...


@dataclass
class TensorStorage:
    """A piece of memory of torch's that tensors look at; its bytes may be found after them."""

    dtype: str
    count: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))


FindStorage = Callable[[str, TensorStorage], TensorStorage]
"""From its key and what the program says of it to the storage itself."""


def run_pickle(file: "Window", *, find_storage: FindStorage | None = None) -> Any:
    """Runs the next program in the file; returns plain Python objects and `PickledTensor`s.

    Raises:
        ValueError: the program wants anything else.
    """
    machine = _Machine(find_storage)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
            if steps == _MOST_STEPS:
                raise ValueError(f"its pickle has more than {_MOST_STEPS:,} steps")
            machine.step(opcode.name, argument)
        return machine.pop()
    # A damaged or hostile program empties the stack or mixes up types.
    except (IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"its pickle makes no sense ({error!r})") from error


class Window:
    """Bytes as a file. It gives what there is, however much is asked for, and copies no more."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    def read(self, size: int = -1) -> bytes:
        start, self._place = self._place, len(self._data) if size < 0 else self._place + size
        self._place = min(self._place, len(self._data))
        return bytes(self._data[start : self._place])

    def readline(self) -> bytes:
        line = bytes(self._data[self._place : self._place + _LONGEST_LINE])
        return self.read(line.find(b"\n") + 1)

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._data)}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def seekable(self) -> bool:
        return True


@dataclass(frozen=True)
class _Name:
    """A module and name that a program calls. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}"
        return name if name.isprintable() else repr(name)


@dataclass
class _Tensor:
    storage: TensorStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def stored(self) -> StoredTensor:
        return StoredTensor(
            data=self.storage.data,
            dtype=self.storage.dtype,
            shape=tuple(self.shape),
            strides=tuple(self.strides),
            offset=self.offset,
        )


@dataclass
class _NumpyType:
    code: str
    order: str = "|"

    def build(self, state: Any) -> None:
        self.order = _text(state[1])

    @property
    def dtype(self) -> str:
        if self.code not in _NUMPY_TYPES or self.order == ">":
            raise ValueError(f"an array is of numpy's type {self.order}{self.code}")
        return _NUMPY_TYPES[self.code]


@dataclass
class _Array:
    """An array, empty until the program builds it."""

    state: tuple[Any, ...] | None = None

    def build(self, state: Any) -> None:
        self.state = tuple(state[-4:])

    def stored(self) -> StoredTensor:
        if self.state is None:
            raise ValueError("an array is never filled")
        shape, kind, by_columns, data = self.state
        if not isinstance(kind, _NumpyType):
            raise TypeError(f"an array of type {kind!r}")
        dtype = kind.dtype
        if isinstance(data, str):  # Python 2's
            data = data.encode("latin-1")
        data = memoryview(data)
        if not by_columns:
            return contiguous(data, dtype=dtype, shape=shape)
        strides = tuple(accumulate((1, *shape[:-1]), mul)) if shape else ()
        return StoredTensor(data=data, dtype=dtype, shape=tuple(shape), strides=strides)


class _Machine:
    """The stack, and what each step does to it."""

    def __init__(self, find_storage: FindStorage | None) -> None:
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded: dict[int, tuple[str, bytes]] = {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self._marks.append(len(self._stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BUILD":
                self._build(self.pop())
            case "APPEND" | "APPENDS":
                values = self._to_mark() if opcode == "APPENDS" else [self.pop()]
                _as(list, self._stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self._to_mark() if opcode == "SETITEMS" else self._last(2)
                _as(dict, self._stack[-1]).update(_pairs(values))
            case "POP":
                self.pop()
            case _:
                self._stack.append(self._made(opcode, argument))

    def _made(self, opcode: str, argument: Any) -> Any:
        match opcode:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                return {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode]
            case "INT" | "LONG" | "LONG1" | "LONG4" | "BININT" | "BININT1" | "BININT2":
                return argument
            case "FLOAT" | "BINFLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                return argument
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                return argument
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                return argument
            case "EMPTY_DICT":
                return {}
            case "EMPTY_LIST":
                return []
            case "EMPTY_TUPLE":
                return ()
            case "DICT":
                return _pairs(self._to_mark())
            case "LIST":
                return self._to_mark()
            case "TUPLE":
                return tuple(self._to_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self._last(int(opcode[-1])))
            case "GET" | "BINGET" | "LONG_BINGET":
                return self._memo[argument]
            case "GLOBAL":
                return _Name(*argument.split(" "))
            case "STACK_GLOBAL":
                return _Name(*map(_text, self._last(2)))
            case "BINPERSID":
                return self._storage(self.pop())
            case "REDUCE":
                called, arguments = self._last(2)
                return self._called(_as(_Name, called), _as(tuple, arguments))
        raise ValueError(f"its pickle takes a step that no tensor needs ({opcode})")

    def _called(self, called: _Name, given: tuple[Any, ...]) -> Any:
        module = called.module.replace("numpy._core", "numpy.core")
        match f"{module}.{called.name}":
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                storage, offset, shape, strides = given[:4]
                return _Tensor(_as(TensorStorage, storage), offset, shape, strides)
            case "torch._utils._rebuild_parameter":
                return given[0]
            case "torch.Size":
                return tuple(_as(tuple, given[0]))
            case "collections.OrderedDict":
                return dict([] if not given else [_as(list, pair) for pair in given[0]])
            case "numpy.core.multiarray._reconstruct":
                return _Array()
            case "numpy.core.numeric._frombuffer":
                data, kind, shape, order = given
                return _Array((shape, kind, order == "F", data))
            case "numpy.dtype":
                return _NumpyType(_text(given[0]))
            case "numpy.core.multiarray.scalar":
                return None  # of an optimiser, say: no weight is one
            case "__builtin__.bytes" | "builtins.bytes" if not given:
                return b""
            case "_codecs.encode" if given[1] in ("latin1", "latin-1"):
                return self._latin(_as(str, given[0]))
        raise ValueError(f"its pickle would run {called}, which is not needed for tensors; refused")

    def _latin(self, text: str) -> bytes:
        # Once for each text, so that a program cannot make many of one.
        _, encoded = self._encoded.get(id(text), (text, None))
        if encoded is None:
            encoded = text.encode("latin-1")
            self._encoded[id(text)] = text, encoded
        return encoded

    def _storage(self, described: Any) -> TensorStorage:
        if self._find_storage is None:
            raise ValueError("its pickle wants memory from outside")
        what, kind, key, _location, count, *view = _as(tuple, described)
        kind = _as(_Name, kind)
        if what != "storage" or kind.name not in _STORAGES or any(part for part in view):
            raise ValueError(f"its pickle wants a {what} of {kind}; load and save it with torch")
        return self._find_storage(_text(key), TensorStorage(_STORAGES[kind.name], _as(int, count)))

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, _Array | _NumpyType):
            target.build(state)
        elif type(target) is not dict:  # whose attributes nobody wants
            raise ValueError(f"its pickle builds a {type(target).__name__}")

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("an empty stack")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    keys = values[::2]
    if any(type(key) not in (str, bytes, int, float, bool, type(None)) for key in keys):
        raise TypeError("keys must be plain")
    return dict(zip(keys, values[1::2], strict=True))


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} wanted, {type(value).__name__} there")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if type(value) is bytes else _as(str, value)

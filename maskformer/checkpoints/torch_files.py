"""Files that torch saved, and pickles of arrays: where their programs and their numbers lie.

Takes a file's bytes; gives its tensors by name. Torch writes a zip, before 1.6 it wrote a row of
pickles with the numbers after them; Detectron2 publishes one pickle of numpy arrays.
"""

import struct
import zipfile
from typing import Any

from maskformer.checkpoints.pickled import PickledTensor, TensorStorage, Window, run_pickle
from maskformer.checkpoints.stored import ITEM_BYTES, StoredTensor

ZIP_START = b"PK\x03\x04"

# Names under which a training run wraps its weights, outermost first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")

_OLD_MAGIC = 0x1950A86A20F9469CFC6C

_LOCAL_HEADER = 30


def pickled_tensors(data: memoryview) -> dict[str, StoredTensor]:
    """Every tensor of the file that has a name; what wraps them is taken off.

    Raises:
        ValueError: it is damaged, or its pickle asks for anything but tensors and arrays.
    """
    try:
        tree = _read_zip(data) if data[:4] == ZIP_START else _read_row(data)
        named = _unwrapped(tree).items()
        tensors = {str(name): v.stored() for name, v in named if isinstance(v, PickledTensor)}
    except (
        zipfile.BadZipFile,
        struct.error,
        LookupError,
        TypeError,
        AttributeError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"it is damaged or no checkpoint ({error!r})") from error
    if not tensors:
        raise ValueError("it has no tensors by name")
    return tensors


def _unwrapped(tree: Any) -> dict[Any, Any]:
    for _ in _WRAPPERS:  # no more often: a dictionary may hold itself
        tree = next((tree[name] for name in _WRAPPERS if isinstance(tree.get(name), dict)), tree)
    return tree


def _read_zip(data: memoryview) -> Any:
    archive = zipfile.ZipFile(Window(data))
    records = {info.filename: info for info in archive.infolist()}
    packed = [info for info in records.values() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        # Torch packs nothing, and what is not packed is no larger than the file.
        largest = max(packed, key=lambda info: info.file_size)
        raise ValueError(
            f"{largest.filename} is packed and would unfold to {largest.file_size:,} bytes"
        )
    programs = [name for name in records if name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ValueError(f"it has {len(programs)} data.pkl, torch writes one")
    root = programs[0].removesuffix("data.pkl")
    if f"{root}byteorder" in records:
        _check_order(bytes(_record(data, records[f"{root}byteorder"])) == b"little")

    def find_storage(key: str, storage: TensorStorage) -> TensorStorage:
        storage.data = _record(data, records[f"{root}data/{key}"])
        return storage

    program = _record(data, records[programs[0]])
    return run_pickle(Window(program), find_storage=find_storage)


def _record(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER]
    if len(header) < _LOCAL_HEADER or header[:4] != ZIP_START:
        raise ValueError(f"{info.filename} is not where it should be")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = info.header_offset + _LOCAL_HEADER + name + extra
    if start + info.file_size > len(data):
        raise ValueError(f"{info.filename} claims {info.file_size:,} bytes")
    return data[start : start + info.file_size]


def _read_row(data: memoryview) -> Any:
    file = Window(data)
    first = run_pickle(file)
    if first != _OLD_MAGIC:
        return first
    _version, machine = run_pickle(file), run_pickle(file)
    _check_order(machine["little_endian"] is True)
    storages: dict[str, TensorStorage] = {}
    tree = run_pickle(file, find_storage=storages.setdefault)
    for key in run_pickle(file):
        storage, told = storages[key], file.read(8)
        if len(told) < 8:
            raise ValueError("it ends before its last storage")
        count = int.from_bytes(told, "little")
        start, size = file.tell(), count * ITEM_BYTES[storage.dtype]
        if count != storage.count or start + size > len(data):
            raise ValueError(f"a storage of {storage.count:,} numbers claims {count:,}")
        storage.data = data[start : start + size]
        file.seek(start + size)
    return tree


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise ValueError("its numbers are not little-endian")

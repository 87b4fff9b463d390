"""Partitions: records of fixed width on disk, all with one key in one file.

So two sets of millions of records are joined a small part at a time, whatever their order.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]

KEY = ("key", "u8", (2,))
"""The first field of every record."""

_PARTITIONS = 64
_MOST_HELD = 2**18


class Partitions:
    """Where records are laid down, and read a partition at a time; few of them touch no disk."""

    def __init__(self, folder: Path, *, dtype: np.dtype) -> None:
        self._folder, self._dtype = folder, dtype
        self._files = [folder / f"{number:03}" for number in range(_PARTITIONS)]
        self._held: list[Records] = []
        self._num_held = 0

    def add(self, records: Records) -> None:
        self._held.append(records)
        self._num_held += len(records)
        if self._num_held > _MOST_HELD:
            self._lay_down()

    def __iter__(self) -> Iterator[Records]:
        if not self._folder.exists():
            yield from self._split()
            return
        self._lay_down()
        for file in self._files:
            yield np.fromfile(file, self._dtype) if file.exists() else np.empty(0, self._dtype)

    def _lay_down(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for file, part in zip(self._files, self._split(), strict=True):
            if len(part):
                with open(file, "ab") as output:
                    output.write(part.tobytes())
        self._held, self._num_held = [], 0

    def _split(self) -> list[Records]:
        """What is held, by partition."""
        records = np.concatenate([np.empty(0, self._dtype), *self._held])
        numbers = records["key"][:, 0] % _PARTITIONS
        records = records[np.argsort(numbers, kind="stable")]
        ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=_PARTITIONS))
        return np.split(records, ends[:-1])


def keys(names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """128 bits of each name: among 10^10 names two are alike once in 10^18 corpora."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def marks(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """64 bits of each text, to tell apart texts of one name; they hold in this process only."""
    return np.fromiter(map(hash, texts), np.int64, len(texts))


def grouped(*sets: Records) -> list[npt.NDArray[np.int64]]:
    """For each set the number of each record's group: those with one key, in all sets, are one."""
    all_keys = np.concatenate([records["key"] for records in sets])
    order = np.lexsort((all_keys[:, 1], all_keys[:, 0]))
    in_order = all_keys[order]
    is_next = np.any(in_order[1:] != in_order[:-1], axis=1)
    groups = np.empty(len(all_keys), np.int64)
    groups[order] = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(is_next)])
    ends = np.cumsum([len(records) for records in sets])
    return np.split(groups, ends[:-1])

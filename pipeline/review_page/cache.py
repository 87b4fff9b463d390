"""Keeps the pictures that were made last, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable


class ByteCache:
    """Encoded pictures by key; the longest unused are dropped first. For several threads."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that are kept."""
        return self._bytes

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: bytes) -> None:
        """Keeps a picture; one that is larger than the whole cache is not kept."""
        with self._lock:
            self._bytes -= len(self._kept.pop(key, b""))
            if len(value) > self._most_bytes:
                return
            self._kept[key] = value
            self._bytes += len(value)
            while self._bytes > self._most_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)

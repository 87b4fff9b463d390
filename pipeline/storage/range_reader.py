"""Reads a remote object as a seekable file, by ranges."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_SMALLEST_BLOCK_BYTES, _LARGEST_BLOCK_BYTES = 2**17, 2**23


class RangeReader(io.RawIOBase):
    """A raw file whose bytes `fetch(start, stop)` returns.

    Sequential reads fetch blocks that double in size, the next one ahead of its use. Reads that
    jump (a walk over an archive's headers) fetch one small block each.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], *, size: int) -> None:
        super().__init__()
        self._fetch, self._size = fetch, size
        self._position = 0
        self._block_start, self._block = 0, b""
        self._block_bytes = _SMALLEST_BLOCK_BYTES
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        if not self._block_start <= self._position < self._block_start + len(self._block):
            self._block_start, self._block = self._position, self._next_block()
        offset = self._position - self._block_start
        chunk = self._block[offset : offset + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _next_block(self) -> bytes:
        ahead, self._ahead = self._ahead, None
        skipped = self._position - (self._block_start + len(self._block))
        if not 0 <= skipped < self._block_bytes:  # a short skip, as over a label map, is no jump
            self._block_bytes = _SMALLEST_BLOCK_BYTES
            return self._part(self._position)
        block = b""
        if ahead is not None and ahead[0] <= self._position:
            block = ahead[1].result()[self._position - ahead[0] :]
        if not block:
            block = self._part(self._position)
        self._block_bytes = min(2 * self._block_bytes, _LARGEST_BLOCK_BYTES)
        following = self._position + len(block)
        if following < self._size:
            self._ahead = following, self._pool.submit(self._part, following)
        return block

    def _part(self, start: int) -> bytes:
        return self._fetch(start, min(start + self._block_bytes, self._size))

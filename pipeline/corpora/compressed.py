"""Decompresses gzip, bzip2, xz and zstd files, read forward, and reports every damage.

Takes an open file; `archives.py` reads tar members from the result. Python's own readers raise
OSError both for a bad checksum and for a failing disk. Here errors of the file pass unchanged, and
damaged content is `StreamDamage`.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, Protocol

Compression = Literal["gzip", "bzip2", "xz", "zstd"]

_SIGNATURES: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_LONGEST_SIGNATURE = max(map(len, _SIGNATURES))
_READ_BYTES = 2**16
# A step that meets damage returns none of its bytes, so steps are short.
_STEP_BYTES = 2**14

# A header may ask for 4 GiB; `xz -9` asks for 65 MiB.
_XZ_MEMORY_BYTES = 2**28


class StreamDamage(Exception):
    """The compressed bytes are damaged or incomplete."""

    def __init__(self, message: str, truncated: bool = False) -> None:
        super().__init__(message, truncated)
        self.message = message
        self.truncated = truncated


def compression_of(head: bytes) -> Compression | None:
    """Returns the compression of a file that begins with these bytes, None where it has none."""
    return next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)


def decompressed(file: BinaryIO, *, compression: Compression) -> io.BufferedReader:
    """Returns the content of a file from its position on, to be read forward only.

    Concatenated streams are one, as for `gzip -d`; zeros behind the last are padding, and anything
    else there is damage. Memory stays small at any compression ratio.
    """
    chunks = _zstd_chunks(file) if compression == "zstd" else _chunks(file, compression=compression)
    return io.BufferedReader(_Chunks(chunks), _READ_BYTES)


class _Decompressor(Protocol):
    """The common interface of the standard library's incremental decompressors."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _chunks(file: BinaryIO, *, compression: Compression) -> Iterator[bytes]:
    data = file.read(_READ_BYTES)
    while data:
        decompressor = _DECOMPRESSORS[compression]()
        while not decompressor.eof:
            try:
                step = decompressor.decompress(data, _STEP_BYTES)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise StreamDamage(f"the {compression} stream is damaged: {error}") from None
            if step:
                yield step
            data = b""
            if decompressor.needs_input and not decompressor.eof:
                data = file.read(_READ_BYTES)
                if not data:
                    raise StreamDamage(f"the {compression} stream is cut short", truncated=True)
        data = _next_stream(file, decompressor.unused_data, compression=compression)


def _next_stream(file: BinaryIO, data: bytes, *, compression: Compression) -> bytes:
    """Returns the first bytes of the next stream, none at the file's end."""
    data = data.lstrip(b"\0")
    while len(data) < _LONGEST_SIGNATURE and (more := file.read(_READ_BYTES)):
        data = (data + more).lstrip(b"\0")
    if data and compression_of(data) != compression:
        raise StreamDamage(f"the {compression} stream is followed by bytes that are none")
    return data


class _Inflater:
    """Gives zlib's decompressor the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)  # 31: a gzip header, and its checksum at the end
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail and not self._is_full

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        step = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._is_full = len(step) == max_length
        return step


_DECOMPRESSORS: dict[Compression, Callable[[], _Decompressor]] = {
    "gzip": _Inflater,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES),
}


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow as pa  # Python has zstd from 3.14 on

    stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    while True:
        try:
            chunk = stream.read(_STEP_BYTES)
        except OSError as error:
            if error.errno is not None:  # from the system, not from the decompressor
                raise
            is_cut = "runcated" in str(error)
            raise StreamDamage(f"the zstd stream is damaged: {error}", truncated=is_cut) from None
        if not chunk:
            return
        yield chunk


class _Chunks(io.RawIOBase):
    """Reads an iterator of non-empty bytes as a raw file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._left or next(self._chunks, b"")
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self._left = data[size:]
        return size

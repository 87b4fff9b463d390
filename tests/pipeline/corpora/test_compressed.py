"""Compressed streams come out whole, in little memory, or say what is wrong with them."""

import bz2
import gzip
import io
import lzma
import pickle
import random
import tracemalloc
from collections.abc import Callable

import pyarrow as pa
import pytest

from pipeline.corpora.compressed import StreamDamage, compression_of, decompressed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
STANDARD = ["gzip", "bzip2", "xz"]
MIXED = random.Random(0).randbytes(100_000) + bytes(300_000) + random.Random(1).randbytes(70_000)


def decompressed_content(data: bytes, *, compression: str) -> bytes:
    return decompressed(io.BytesIO(data), compression=compression).read()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("data", [b"", b"short", MIXED])
def test_what_was_compressed_comes_out(compression, data):
    compressed = COMPRESS[compression](data)
    assert compression_of(compressed) == compression
    assert decompressed_content(compressed, compression=compression) == data


def test_what_is_not_compressed_is_told_apart():
    for data in (b"", b"\x1f", b"plain", bytes(600)):
        assert compression_of(data) is None


@pytest.mark.parametrize("compression", COMPRESS)
def test_streams_end_to_end_are_one(compression):
    compressed = COMPRESS[compression](MIXED) + COMPRESS[compression](b"more")
    assert decompressed_content(compressed, compression=compression) == MIXED + b"more"


@pytest.mark.parametrize("compression", STANDARD)
def test_zeros_behind_a_stream_are_padding_and_other_bytes_are_damage(compression):
    compressed = COMPRESS[compression](MIXED)
    assert decompressed_content(compressed + bytes(5000), compression=compression) == MIXED
    for more in (b"x", bytes(5000) + b"no stream", compressed[:2]):
        with pytest.raises(StreamDamage):
            decompressed_content(compressed + more, compression=compression)


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_stream_cut_short_gives_what_there_is_and_then_says_so(compression):
    compressed = COMPRESS[compression](MIXED)
    for cut in (10, len(compressed) // 2, len(compressed) - 1):
        file = decompressed(io.BytesIO(compressed[:cut]), compression=compression)
        pieces: list[bytes] = []
        with pytest.raises(StreamDamage) as caught:
            pieces.extend(iter(lambda file=file: file.read(1000), b""))
        assert caught.value.truncated
        assert MIXED.startswith(b"".join(pieces))


@pytest.mark.parametrize("compression", STANDARD)
def test_a_wrong_checksum_is_damage(compression):
    compressed = bytearray(COMPRESS[compression](MIXED))
    compressed[len(compressed) // 3] ^= 4
    with pytest.raises(StreamDamage) as caught:
        decompressed_content(bytes(compressed), compression=compression)
    assert not caught.value.truncated


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_stream_that_grows_a_thousandfold_takes_little_memory(compression):
    compressed = COMPRESS[compression](bytes(2**26))
    file = decompressed(io.BytesIO(compressed), compression=compression)
    tracemalloc.start()
    size = 0
    while piece := file.read(2**16):
        size += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 2**26
    assert peak < 2**24  # xz looks back over 8 MiB


def test_damage_survives_the_way_between_processes():
    before = StreamDamage("cut", truncated=True)
    after = pickle.loads(pickle.dumps(before))
    assert (after.message, after.truncated) == ("cut", True)

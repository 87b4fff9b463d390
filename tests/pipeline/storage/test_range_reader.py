"""A remote object read in ranges is the file that it would be on a disk."""

import io
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.storage.range_reader
from pipeline.storage.range_reader import RangeReader


def _range_reader(data: bytes) -> tuple[io.BufferedReader, list[tuple[int, int]]]:
    """The data as a file, and the ranges that were asked for so far."""
    ranges: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> bytes:
        ranges.append((start, stop))
        return data[start:stop]

    return io.BufferedReader(RangeReader(fetch, size=len(data)), 64), ranges


@given(
    size=st.integers(0, 700),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 400)),
            st.tuples(st.just("readinto"), st.integers(0, 400)),
            st.tuples(st.just("from start"), st.integers(0, 900)),
            st.tuples(st.just("from here"), st.integers(-900, 900)),
            st.tuples(st.just("from end"), st.integers(-700, 100)),
        ),
        max_size=30,
    ),
)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_remote_object_reads_and_seeks_as_a_plain_file_does(monkeypatch, size, steps):
    monkeypatch.setattr(pipeline.storage.range_reader, "_SMALLEST_BLOCK_BYTES", 16)
    monkeypatch.setattr(pipeline.storage.range_reader, "_LARGEST_BLOCK_BYTES", 128)
    data = random.Random(size).randbytes(size)
    plain = io.BytesIO(data)
    remote, _ = _range_reader(data)
    with remote:
        for action, number in steps:
            if action == "read":
                assert remote.read(number) == plain.read(number)
            elif action == "readinto":
                ours, theirs = bytearray(number), bytearray(number)
                assert remote.readinto(ours) == plain.readinto(theirs)
                assert ours == theirs
            else:
                whence = {"from start": 0, "from here": 1, "from end": 2}[action]
                base = {0: 0, 1: plain.tell(), 2: size}[whence]
                number = max(number, -base)
                assert remote.seek(number, whence) == plain.seek(number, whence)
            assert remote.tell() == plain.tell()


def test_reading_straight_on_takes_each_byte_once_in_ever_larger_blocks(monkeypatch):
    monkeypatch.setattr(pipeline.storage.range_reader, "_SMALLEST_BLOCK_BYTES", 1024)
    monkeypatch.setattr(pipeline.storage.range_reader, "_LARGEST_BLOCK_BYTES", 16 * 1024)
    data = random.Random(1).randbytes(200_000)
    remote, ranges = _range_reader(data)
    with remote:
        assert b"".join(iter(lambda: remote.read(100), b"")) == data
    assert sorted(ranges) == ranges
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert len(ranges) < 20


def test_skipping_about_takes_little_more_than_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(pipeline.storage.range_reader, "_SMALLEST_BLOCK_BYTES", 1024)
    data = bytes(10**6)
    remote, ranges = _range_reader(data)
    with remote:
        for offset in range(0, 10**6, 50_000):
            remote.seek(offset)
            remote.read(512)
    assert sum(stop - start for start, stop in ranges) <= 20 * 3 * 1024 + 3 * 1024

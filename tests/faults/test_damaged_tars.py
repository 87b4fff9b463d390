"""A tar that is cut anywhere, or has any bit of a header flipped: found out, or no harm done.

Harm is done where an image is missing, has other bytes or another name, and nobody says so.
"""

import collections
import io
import tarfile
from collections.abc import Iterable, Iterator

import pytest
from tar_readers import READERS, Images

BLOCK = 512
SIZES = (700, 512, 1, 1500, 1024, 300)
IMAGES = {f"{n:03}": bytes([65 + n]) * size for n, size in enumerate(SIZES)}


def small_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, data in IMAGES.items():
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


TAR = small_tar()


def headers() -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as archive:
        return [member.offset for member in archive]


def cuts() -> Iterator[bytes]:
    for stop in range(BLOCK, len(TAR), BLOCK):
        yield TAR[:stop]


def flips(*, of: Iterable[int], bits: Iterable[int]) -> Iterator[bytes]:
    """The tar with one bit flipped, for every byte of the headers."""
    for header in of:
        for byte in range(header, header + BLOCK):
            for bit in bits:
                yield TAR[:byte] + bytes([TAR[byte] ^ 1 << bit]) + TAR[byte + 1 :]


def outcome(reader: str, data: bytes) -> str:
    """`found out`, `harmless` or `harm`."""
    images: Images = {}
    try:
        READERS[reader](data, images)
    except Exception:
        return "found out" if images.items() <= IMAGES.items() else "harm"
    return "harmless" if images == IMAGES else "harm"


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_the_tar_as_it_was_written(reader: str) -> None:
    assert outcome(reader, TAR) == "harmless"


def test_a_tar_cut_at_any_block_is_found_out_or_whole() -> None:
    found = collections.Counter(outcome("ours", data) for data in cuts())
    # A block of zeros behind the last image is an end.
    zeros = (len(TAR) - len(TAR.rstrip(b"\0"))) // BLOCK
    assert found == {"found out": len(TAR) // BLOCK - zeros, "harmless": zeros - 1}


@pytest.mark.parametrize("bit", [0, 7])
def test_a_bit_flipped_in_any_byte_of_a_header_is_found_out(bit: int) -> None:
    header = headers()[2]
    found = [outcome("ours", data) for data in flips(of=[header], bits=[bit])]
    assert [n for n, each in enumerate(found) if each == "harm"] == []
    # The last byte of the checksum's field is none of its digits.
    assert [n for n, each in enumerate(found) if each == "harmless"] == [155]


@pytest.mark.faults
def test_every_cut_and_every_flip_beside_the_readers_that_others_use() -> None:
    """Prints the figures, and holds ours."""
    kinds = {"cut": list(cuts()), "flip": list(flips(of=headers(), bits=range(8)))}
    for kind, damaged in kinds.items():
        for reader in READERS:
            found = collections.Counter(outcome(reader, data) for data in damaged)
            harmed = found["found out"] + found["harm"]
            percent = 100 * found["found out"] / harmed
            print(f"figure: {len(damaged)} {kind}s read by {reader}: {percent:.1f} % found out")
            if reader == "ours":
                assert found["harm"] == 0
                assert found["found out"] > 0.9 * len(damaged) * (kind == "flip")

"""Removes metadata from PNGs, and finds PNGs whose data end too early.

Text, colour profiles and other ancillary chunks can be large or damaged, and Pillow then returns no
picture at all. Its bounds on them hold for the process and guard against texts that unpack to
gigabytes; so the bounds stay, and the chunks go. Only the orientation is kept.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.corpora.inflating import inflated_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp"
_ORIENTATION = re.compile(rb"""tiff:Orientation(?:="|>)([1-8])""")
_MOST_XMP = 1 << 24
_PILLOW_KEEPS = 1 << 20
"""The size up to which Pillow accepts texts."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""The number of channels by the header's colour type."""
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""The first column and row of each pass of an interlaced picture, and the steps to the next."""


def without_metadata(data: bytes) -> bytes | None:
    """Removes the ancillary chunks, except for the orientation.

    Returns None where a chunk of the picture has a wrong checksum.
    """
    kept = [SIGNATURE]
    for kind, content, is_sound in _chunks(data):
        if kind[:1].isupper():
            if not is_sound:
                return None
            kept.append(chunk(kind, content))
        elif is_sound and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            kept.extend(chunk(kind, each) for each in _orientation_chunks(kind, content))
    return b"".join(kept)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Encodes a chunk, with its checksum."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def bits_per_sample(data: bytes) -> int:
    """Returns the depth in the header, 8 without a header."""
    return data[24] if data.startswith(SIGNATURE) and len(data) > 24 else 8


def has_one_header(data: bytes) -> bool:
    """True if a header comes first and no other contradicts it; decoders differ in their choice."""
    if data[12:16] != b"IHDR":
        return False
    if data.count(b"IHDR") == 1:
        return True
    return len({content for kind, content, _ in _chunks(data) if kind == b"IHDR"}) == 1


def lacks_png_data(image: Image.Image, data: bytes) -> bool:
    """True if the data end before the pixels; Pillow leaves the missing rows at zero.

    Args:
        image: the file as decoded by Pillow.
    """
    width, height, bits, colour, *_, is_interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not is_interlaced and np.asarray(last_row).any():
        return False
    passes = _PASSES if is_interlaced else ((0, 0, 1, 1),)
    needed = 0
    for left, top, right_by, down_by in passes:
        columns, rows = -(-(width - left) // right_by), -(-(height - top) // down_by)
        if columns > 0:
            needed += max(0, rows) * (1 + -(-columns * bits * _CHANNELS.get(colour, 1) // 8))
    parts = (content for kind, content, _ in _chunks(data) if kind == b"IDAT")
    try:
        return inflated_size(parts, most=needed) < needed
    except zlib.error:
        return True


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yields kind, content and if its checksum is right, up to the end or to what is no chunk."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + size
        if not kind.isalpha() or end + 4 > len(data):
            return
        (checksum,) = struct.unpack_from(">I", data, end)
        content = data[position + 8 : end]
        yield kind, content, checksum == zlib.crc32(content, zlib.crc32(kind))
        if kind == b"IEND":
            return
        position = end + 4


def _orientation_chunks(kind: bytes, content: bytes) -> Iterator[bytes]:
    """Yields the content of a chunk of the same kind that holds a sound chunk's orientation."""
    if kind == b"eXIf":
        yield content
    name, _, rest = content.partition(b"\0")
    is_profile = kind in (b"tEXt", b"zTXt") and name == b"Raw profile type exif"
    if is_profile and len(_unpacked(rest[1:], most=_PILLOW_KEEPS + 1)) <= _PILLOW_KEEPS:
        yield content
    if kind == b"iTXt" and name == _XMP:
        text = rest[2:].split(b"\0", 2)[-1]
        if rest[:1] == b"\1":
            text = _unpacked(text, most=_MOST_XMP)
        if found := _ORIENTATION.search(text):
            packet = b'<x tiff:Orientation="%s"/>' % found[1]
            yield _XMP + b"\0\0\0\0\0" + packet


def _unpacked(data: bytes, *, most: int) -> bytes:
    """Decompresses up to that many bytes; none where the data are damaged."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b""

"""PNG: the same picture without what is said about it.

Text, colour profiles and other ancillary chunks can be large or damaged, and Pillow then gives no
picture at all. Its bounds on them are the process's, and guard against texts that unpack to
gigabytes; so they stay, and the chunks go. How the picture is to be turned is kept.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp"
_ORIENTATION = re.compile(rb"""tiff:Orientation(?:="|>)([1-8])""")
_MOST_XMP = 1 << 24
_PILLOW_KEEPS = 1 << 20
"""Texts up to this size are no trouble."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the header's colour type."""
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""Of an interlaced picture: the first column and row, and the steps to the next ones."""
_MEGABYTE = 1 << 20


def bare(data: bytes) -> bytes | None:
    """The file without its ancillary chunks, but what says how it is turned; None if damaged.

    The chunks that make the picture must have their checksums.
    """
    kept = [SIGNATURE]
    for kind, content, is_sound in _chunks(data):
        if kind[:1].isupper():
            if not is_sound:
                return None
            kept.append(chunk(kind, content))
        elif is_sound and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            kept.extend(chunk(kind, each) for each in _what_turns(kind, content))
    return b"".join(kept)


def chunk(kind: bytes, content: bytes) -> bytes:
    """The bytes of a chunk, its checksum included."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def bits_per_sample(data: bytes) -> int:
    """The depth in the header, 8 where there is none."""
    return data[24] if data.startswith(SIGNATURE) and len(data) > 24 else 8


def has_one_header(data: bytes) -> bool:
    """Whether a header comes first and none contradicts it; decoders differ in which they take."""
    if data[12:16] != b"IHDR":
        return False
    if data.count(b"IHDR") == 1:
        return True
    return len({content for kind, content, _ in _chunks(data) if kind == b"IHDR"}) == 1


def is_filled_up(image: Image.Image, data: bytes) -> bool:
    """Whether the data end before the pixels do, whose last rows Pillow has then left at zero.

    Args:
        image: what Pillow gives for the file, with its pixels.
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
    return not _unpacks_to(data, needed)


def _unpacks_to(data: bytes, needed: int) -> bool:
    """Whether the picture's data are at least so many bytes."""
    unpacker = zlib.decompressobj()
    for kind, content, _ in _chunks(data):
        while kind == b"IDAT":
            try:
                unpacked = unpacker.decompress(content, _MEGABYTE)
            except zlib.error:
                return False
            needed -= len(unpacked)
            if needed <= 0:
                return True
            content = unpacker.unconsumed_tail
            if not content and len(unpacked) < _MEGABYTE:
                break
    return False


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, content and whether its checksum is right, up to the end or to what is no chunk."""
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


def _what_turns(kind: bytes, content: bytes) -> Iterator[bytes]:
    """What a sound chunk says about the picture's orientation, in a chunk of the same kind."""
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
    """At most so many bytes of what was compressed, as far as it is sound."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b""

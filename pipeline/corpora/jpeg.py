"""Reads headers of JPEG and JPEG 2000, and finds JPEGs whose data end too early.

Takes a file's bytes; `decoding.py` asks where Pillow returns no picture, or one that looks cut.
"""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, JpegImagePlugin  # noqa: F401  the plugin opens what is tried here

from pipeline.corpora.levels import UnsupportedPixels, check_bits_used, check_high_bytes

_PROCESSES = {
    0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless",
    0xC9: "arithmetic coding", 0xCA: "progressive, arithmetic coding",
    0xCB: "lossless, arithmetic coding", 0xF7: "JPEG-LS",
}  # fmt: skip
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_START_OF_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")
_FILLED = {127, 128}
_SIZ = b"\xff\x4f\xff\x51"

# Any bytes that are no marker serve; restart markers follow, so that decoders read on.
_MORE = bytes(range(1, 255)) * 2
_RESTARTS = b"".join(b"\xff" + bytes([0xD0 + n % 8]) + bytes(range(1, 64)) for n in range(16))


def describe_jpeg(data: bytes) -> str | None:
    """Describes the samples as `JPEG, 3 x 12-bit, extended`; None without a header."""
    for marker, position in segments(data):
        if marker in _FRAMES and position + 8 <= len(data):
            bits, samples = data[position + 2], data[position + 7]
            process = _PROCESSES.get(marker, "hierarchical")
            return f"JPEG, {samples} x {bits}-bit, {process}"
    return None


def describe_2000(data: bytes) -> str | None:
    """Describes the samples as `JPEG 2000, 5 x 8-bit`; None without a header."""
    depths = bits_2000(data)
    return f"JPEG 2000, {len(depths)} x {max(depths)}-bit" if depths else None


def fitted_2000(image: Image.Image, data: bytes) -> Image.Image:
    """Scales a JPEG 2000 image so that white is 255; Pillow does so for 8 bits only.

    Raises:
        UnsupportedPixels: Pillow may have turned white into black.
    """
    bits = max(bits_2000(data), default=8)
    if image.mode == "I;16" and bits == 16:
        check_high_bytes(image)
    elif image.mode != "I;16" and bits > 8:
        # Pillow rounds 16 bits to 8, and the brightest samples overflow to 0.
        bands = [np.asarray(image.getchannel(name)) for name in image.getbands() if name != "A"]
        if min(band.min() for band in bands) == 0:
            found = describe_2000(data)
            raise UnsupportedPixels(f"{found}; where it is white, Pillow may give black")
        check_bits_used(max(int(band.max()) for band in bands) << 8, bits=16)
    elif bits < 8:
        # Pillow only shifts them: white of 1 bit becomes 128.
        white = 256 - (1 << (8 - bits))
        levels = [min(255, round(level * 255 / white)) for level in range(256)]
        return image.point(levels * len(image.getbands()))
    return image


def bits_2000(data: bytes) -> list[int]:
    """Returns the depth of each component of a JPEG 2000 file; none without a header."""
    start = data.find(_SIZ)
    if start < 0 or start + 42 > len(data):
        return []
    (components,) = struct.unpack_from(">H", data, start + 40)
    depths = data[start + 42 : start + 42 + 3 * components : 3]
    return [(depth & 0x7F) + 1 for depth in depths] if len(depths) == components else []


def lacks_jpeg_data(image: Image.Image, data: bytes) -> bool:
    """True if the file lacks data for its last pixels, in spite of an end mark.

    The decoder fills such pixels with grey. Where the last pixels have that grey, the file is
    decoded again with more data before its end mark: if pixels change, data were missing.

    Args:
        image: as it was decoded, not yet turned.
    """
    width, height = image.size
    last = image.crop((max(0, width - 8), height - 1, width, height))
    if not {*last.tobytes()} <= _FILLED:
        return False
    end = next((at for marker, at in segments(data) if marker == _END), None)
    if end is None:
        return False
    longer = data[: end - 2] + _MORE + _RESTARTS + b"\xff\xd9"
    return _pixels(longer) != _pixels(data)


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.tobytes()


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields each marker of the first image and the position behind it."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        yield marker, position
        if marker == _END:
            return
        if position + 2 <= len(data):
            position += int.from_bytes(data[position : position + 2], "big")

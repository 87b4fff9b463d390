"""TIFFs and PNGs whose headers say something else: the pixels that others read, or an error.

What a changed header means is asked of tifffile and libpng. Where these refuse a file, only what
they are known to be stricter about may be read.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.decoding import ImageError, decode, image_size
from pipeline.corpora.png import SIGNATURE, chunk
from pipeline.corpora.tiff_pages import find_picture

MAX_PIXELS = 1 << 20
CLASSES = {
    "DamagedImage", "DecompressionBomb", "NotAnImage", "TruncatedImage", "UnsupportedFormat",
    "UnsupportedPixels",
}  # fmt: skip
HEIGHT, WIDTH = 12, 16
DRAWN = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB, GREY = np.ascontiguousarray(DRAWN[..., :3]), np.ascontiguousarray(DRAWN[..., 0])
WIDE = GREY.astype(np.uint16) * 257
COLOURS = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray | None:
    """Decodes; returns None for an error that says what is wrong."""
    try:
        found = decode(data, name="corpus/a", max_pixels=MAX_PIXELS)
    except ImageError as caught:
        error = caught
    else:
        size = image_size(data, name="a", max_pixels=MAX_PIXELS)
        assert size == (found.height, found.width)
        return np.asarray(found.image)
    assert error.error_class in CLASSES, error
    assert "corpus/a" in error.message
    return None


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the last bit, by which ways of rounding differ."""
    assert found.shape == expected.shape
    assert abs(found.astype(float) - expected).max() <= 1


def tiff_of_samples(samples: np.ndarray, *, order: str, is_big: bool = False, **page: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=is_big) as writer:
        writer.write(samples, metadata=None, **page)
    return buffer.getvalue()


def tiffs(order: str) -> list[bytes]:
    grey, rgb = {"photometric": "minisblack"}, {"photometric": "rgb"}
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    return [
        tiff_of_samples(samples.astype(samples.dtype.newbyteorder(order)), order=order, **page)
        for samples, page in [
            (GREY, grey),
            (GREY, {"photometric": "miniswhite", "rowsperstrip": 5}),
            (GREY, {**grey, "compression": "lzw", "rowsperstrip": 5}),
            (GREY, {"photometric": "palette", "colormap": COLOURS.astype(np.uint16) * 257}),
            (GREY > 99, {**grey, "compression": "packbits"}),
            (WIDE, {**grey, "compression": "deflate", "predictor": True}),
            ((GREY.astype(np.uint32) << 24), grey),
            (GREY / np.float32(255), grey),
            (RGB, rgb),
            (RGB, {**rgb, "tile": (16, 16), "compression": "deflate"}),
            (DRAWN, {**rgb, "extrasamples": ["unassalpha"]}),
            (DRAWN, {"photometric": "separated"}),
            (planes, {**rgb, "planarconfig": "separate", "rowsperstrip": 5}),
            (planes.astype(np.uint16) * 257, {**rgb, "planarconfig": "separate"}),
            (RGB.astype(np.uint16) * 257, rgb),
        ]
    ] + [tiff_of_samples(RGB, order=order, is_big=True, **rgb)]


TIFFS = [*tiffs("<"), *tiffs(">")]
# All that make pixels, but the ranges of samples, whose meaning is a rule of ours.
TAGS = [
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 317, 320, 322, 323, 324,
    325, 330, 338, 339, 347, 65000,
]  # fmt: skip
NUMBERS = st.one_of(
    st.integers(0, 9), st.sampled_from([12, 15, 16, 17, 32, 64, 255, 256, 32773, 65535, 2**31, -1])
)
FAX = (2, 3, 4)
CUTS = st.sampled_from([None] * 4 + [*range(1, 100)])
tiff_changes = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from(["value", "value", "value", "tag", "type", "count"]),
        NUMBERS,
        st.sampled_from(TAGS),
    ),
    max_size=3,
)


def with_other_entries(data: bytes, changes: Sequence[tuple[int, str, int, int]]) -> bytes:
    """The file with other tags, types, numbers of values or values in its first directory."""
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    word, width = ("Q", 8) if is_big else ("I", 4)
    (start,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
    count_form = order + ("Q" if is_big else "H")
    (count,) = struct.unpack_from(count_form, data, start)
    first, size = start + struct.calcsize(count_form), 4 + 2 * width
    for entry, field, number, tag in changes:
        at = first + size * (entry % count)
        (type,) = struct.unpack_from(f"{order}H", data, at + 2)
        if field == "tag":
            struct.pack_into(f"{order}H", changed, at, tag)
        elif field == "type":
            struct.pack_into(f"{order}H", changed, at + 2, number & 0xFFFF)
        elif field == "count":
            struct.pack_into(order + word, changed, at + 4, number & 0xFFFFFFFF)
        else:
            form, most = ("H", 0xFFFF) if type == 3 else (word, 0xFFFFFFFF)
            struct.pack_into(order + form, changed, at + 4 + width, number & most)
    return bytes(changed)


def _number(value: Any) -> Any:
    """The number that tifffile gives as bytes, where a tag of one number has their type."""
    return value[0] if isinstance(value, bytes) and len(value) == 1 else value


def as_tifffile_reads(data: bytes) -> np.ndarray | None:
    """Upright RGB of the file's first page, None where tifffile refuses it."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            samples = page.asarray()
            said = {tag.code: _number(tag.value) for tag in page.tags}
            colours, size = page.colormap, (page.imagelength, page.imagewidth)
            bits, photometric = page.bitspersample, _number(page.photometric)
    except Exception:
        return None
    if samples.ndim == 3 and samples.shape[1:] == size:  # in planes
        samples = samples.transpose(1, 2, 0)
    if photometric == 3:
        levels = colours.T[samples] / 257
    else:
        most = 1 if samples.dtype.kind in "fb" else 2**bits - 1
        levels = samples.astype(float) / most * 255
    levels = levels if levels.ndim == 3 else levels[..., None]
    if photometric == 2 and said.get(338) in (1, (1,)):  # the colours are multiplied by alpha
        alpha = levels[..., 3:4]
        shown = (levels[..., :3] * 255 / alpha.clip(1)).clip(0, 255)
        levels = np.where(alpha > 0, shown, levels[..., :3])
    if photometric == 5:
        levels = (255 - levels[..., :3]) * (255 - levels[..., 3:4]) / 255
    if photometric == 0:
        levels = 255 - levels
    levels = levels[..., :3] if levels.shape[-1] >= 3 else levels[..., :1].repeat(3, -1)
    return upright(levels, said.get(274, 1))


def upright(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns the image as EXIF and TIFF say how the first row and column lie."""
    if orientation in (5, 6, 7, 8):
        levels = levels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return levels[::-1] if orientation in (3, 4, 7, 8) else levels


def a_tiff_is_right_or_refused(
    data: bytes, changes: Sequence[tuple[int, str, int, int]], cut: int | None
) -> None:
    changed = with_other_entries(data, changes)
    changed = changed if cut is None else changed[: cut * len(changed) // 100]
    found = decoded(changed)
    if found is None:
        assert changed != data
        return
    expected, compression = as_tifffile_reads(changed), find_picture(changed).compression
    if expected is None:
        # libtiff unpacks data that are longer than what is needed of them.
        assert compression != 1, "tifffile refuses it"
    elif compression not in FAX:  # whose errors each reader mends in a way of its own
        assert_near(found, expected)


def png_of_rows(
    samples: np.ndarray, *, colour: int, depth: int, between: Sequence[bytes] = ()
) -> bytes:
    """Rows without a filter, in two chunks."""
    rows = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = np.unpackbits(rows[..., None], axis=-1)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(len(rows), -1), axis=-1)
    raw = rows.astype(">u2").view(np.uint8) if depth == 16 else rows
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in raw))
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *between, chunk(b"IDAT", packed[:50])]
    return SIGNATURE + b"".join([*chunks, chunk(b"IDAT", packed[50:]), chunk(b"IEND", b"")])


PALETTE = chunk(b"PLTE", COLOURS.T.tobytes())
PNGS = [
    png_of_rows(GREY, colour=0, depth=8),
    png_of_rows(
        GREY, colour=0, depth=8, between=[chunk(b"tRNS", b"\0\x07"), chunk(b"tEXt", b"a\0b")]
    ),
    png_of_rows(GREY >> 7, colour=0, depth=1),
    png_of_rows(GREY >> 6, colour=0, depth=2),
    png_of_rows(GREY >> 4, colour=0, depth=4),
    png_of_rows(WIDE, colour=0, depth=16),
    png_of_rows(GREY, colour=3, depth=8, between=[PALETTE, chunk(b"tRNS", bytes(7))]),
    png_of_rows(GREY >> 4, colour=3, depth=4, between=[PALETTE]),
    png_of_rows(DRAWN[..., :2], colour=4, depth=8),
    png_of_rows(RGB, colour=2, depth=8, between=[chunk(b"gAMA", struct.pack(">I", 45455))]),
    png_of_rows(RGB.astype(np.uint16) * 257, colour=2, depth=16),
    png_of_rows(DRAWN, colour=6, depth=8, between=[chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0))]),
]
png_changes = st.lists(
    st.tuples(
        st.sampled_from(["header", "header", "content", "size", "kind", "drop", "twice", "swap"]),
        st.integers(0, 12),
        st.one_of(st.integers(0, 17), st.sampled_from([32, 255, 256, 65535, 2**31 - 1, 2**32 - 1])),
        st.booleans(),
    ),
    max_size=3,
)


def with_other_chunks(data: bytes, changes: Sequence[tuple[str, int, int, bool]]) -> bytes:
    """The file with other numbers in its header, and other chunks, with and without checksums."""
    chunks: list[bytes] = []
    position = len(SIGNATURE)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        chunks.append(data[position:end])
        position = end
    for what, where, number, is_summed in changes:
        at = where % len(chunks)
        each = bytearray(chunks[at])
        content = len(each) - 12
        if what == "header" and chunks[0][4:8] == b"IHDR":
            each, at = bytearray(chunks[0]), 0
            if where < 8:
                struct.pack_into(">I", each, 8 + 4 * (where // 4), number)
            else:
                each[8 + where] = number & 0xFF
        elif what == "content" and content:
            each[8 + number % content] ^= 1 << where % 8
        elif what == "size":
            each[:4] = struct.pack(">I", number)
        elif what == "kind":
            each[4:8] = [b"IDAT", b"tRNS", b"PLTE", b"abcd", b"IEND"][number % 5]
        elif what == "swap":
            chunks[at], chunks[number % len(chunks)] = chunks[number % len(chunks)], chunks[at]
            continue
        if what in ("drop", "twice"):
            chunks[at : at + 1] = [bytes(each)] * (2 if what == "twice" else 0)
        elif is_summed:
            chunks[at] = bytes(each[:-4]) + struct.pack(">I", zlib.crc32(each[4:-4]))
        else:
            chunks[at] = bytes(each)
        if not chunks:
            break
    return SIGNATURE + b"".join(chunks)


def as_libpng_reads(data: bytes) -> np.ndarray | None:
    """RGB, None where libpng refuses the file."""
    try:
        samples = imagecodecs.png_decode(data)
    except Exception:
        return None
    levels = samples.astype(float) / (257 if samples.dtype == np.uint16 else 1)
    levels = levels if levels.ndim == 3 else levels[..., None]
    return levels[..., :3] if levels.shape[-1] >= 3 else levels[..., :1].repeat(3, -1)


def without_what_makes_no_pixels(data: bytes) -> bytes:
    """A sound file of the chunks that make the picture, as far as they go."""
    chunks: dict[bytes, bytes] = {}
    position, packed = len(SIGNATURE), b""
    while position + 8 < len(data) and data[position + 4 : position + 8] != b"IEND":
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 :][:4]
        content = data[position + 8 : position + 8 + size]
        if kind == b"IDAT":
            packed += content
        elif not packed:
            chunks[kind] = content
        position += 12 + size
    unpacker, raw = zlib.decompressobj(), b""
    with contextlib.suppress(zlib.error):
        for at in range(len(packed)):
            raw += unpacker.decompress(packed[at : at + 1])
    header = bytearray(chunks[b"IHDR"][:13])
    header[10:12] = b"\0\0"  # there is one method of packing and one of filters
    kept = [chunk(b"IHDR", bytes(header))]
    kept += [chunk(kind, chunks[kind]) for kind in (b"PLTE",) if kind in chunks]
    kept += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(kept)


def a_png_is_right_or_refused(
    data: bytes, changes: Sequence[tuple[str, int, int, bool]], cut: int | None
) -> None:
    changed = with_other_chunks(data, changes)
    changed = changed if cut is None else changed[: cut * len(changed) // 100]
    if not changed:
        return
    found = decoded(changed)
    if found is None:
        assert changed != data
        return
    expected = as_libpng_reads(changed)
    if expected is None:
        expected = as_libpng_reads(without_what_makes_no_pixels(changed))
    assert expected is not None, "libpng refuses it"
    assert_near(found, expected)


@settings(max_examples=100)
@given(st.sampled_from(TIFFS), tiff_changes, CUTS)
def test_a_tiff_of_any_header_is_right_or_refused(data, changes, cut):
    a_tiff_is_right_or_refused(data, changes, cut)


@settings(max_examples=100)
@given(st.sampled_from(PNGS), png_changes, CUTS)
def test_a_png_of_any_header_is_right_or_refused(data, changes, cut):
    a_png_is_right_or_refused(data, changes, cut)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(max_examples=10_000)
@given(st.sampled_from(TIFFS), tiff_changes, CUTS)
def test_ten_thousand_tiffs_are_right_or_refused(data, changes, cut):
    a_tiff_is_right_or_refused(data, changes, cut)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(max_examples=10_000)
@given(st.sampled_from(PNGS), png_changes, CUTS)
def test_ten_thousand_pngs_are_right_or_refused(data, changes, cut):
    a_png_is_right_or_refused(data, changes, cut)

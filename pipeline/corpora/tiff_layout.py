"""Checks that a TIFF page gives all its pixels a position in the file, without contradiction.

Takes the pages of `tiff_pages.py`, before `tiff.py` decodes them: decoders invent the pixels that
strips or tiles lack, differ in their choice of two contradictory numbers, and libtiff writes to
stderr what it does not like, which Pillow has no setting to turn off.
"""

import zlib
from math import prod

from pipeline.corpora.inflating import inflated_size
from pipeline.corpora.tiff_pages import LEAST_POSITION, Page, Tag

_OLD_JPEG = 6
_DEFLATE = (8, 32946)
_PART_BYTES = 2**16
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ALLOWED = {Tag.PLANES: (1, 2), Tag.FILL_ORDER: (1, 2), Tag.PREDICTOR: (1, 2, 3)}
_WITH_PREDICTORS = (5, 8, 32946, 34925, 50000)
"""Compressions that have a predictor; with others, some readers apply it and some do not."""
_OF_ONE_NUMBER = (
    Tag.WIDTH, Tag.HEIGHT, Tag.COMPRESSION, Tag.PHOTOMETRIC, Tag.FILL_ORDER, Tag.ORIENTATION,
    Tag.SAMPLES, Tag.STRIP_ROWS, Tag.PLANES, Tag.PREDICTOR, Tag.TILE_WIDTH, Tag.TILE_HEIGHT,
)  # fmt: skip
_OF_NUMBERS = (
    Tag.BITS, Tag.STRIPS, Tag.STRIP_SIZES, Tag.COLOURS, Tag.TILES, Tag.TILE_SIZES, Tag.EXTRA,
    Tag.FORMAT,
)  # fmt: skip


def check_layout(page: Page) -> None:
    """Raises OSError for a page whose tags contradict each other or whose pixels are incomplete."""
    for tag in (*_OF_ONE_NUMBER, *_OF_NUMBERS):
        count, is_one = len(page.values(tag)), tag in _OF_ONE_NUMBER
        if tag in page.unreadable or (
            tag in page.entries and (count != 1 if is_one else not count)
        ):
            must = "one number" if is_one else "numbers"
            raise OSError(f"its tag {tag:d} must stand once and hold {must}, and does not")
    for tag, allowed in _ALLOWED.items():
        if page.value(tag, 1) not in allowed:
            raise OSError(f"its tag {tag:d} must be one of {allowed}, got {page.value(tag, 1)}")
    if page.value(Tag.PREDICTOR, 1) != 1 and page.compression not in _WITH_PREDICTORS:
        raise OSError("its predictor needs a compression that has one, as LZW and deflate")
    if min(page.size) < 1:
        raise OSError(f"its height and width must be 1 or more, got {page.height} x {page.width}")
    num_colours = 3 << page.bits[0]
    if page.photometric == 3 and len(page.values(Tag.COLOURS)) != num_colours:
        raise OSError(f"its palette must hold {num_colours} numbers, for {page.bits[0]} bits")
    if page.compression != _OLD_JPEG:  # its data have other tags
        _check_pieces(page)


def _check_pieces(page: Page) -> None:
    of_tiles = {Tag.TILE_WIDTH, Tag.TILE_HEIGHT, Tag.TILES, Tag.TILE_SIZES} & page.entries.keys()
    of_strips = {Tag.STRIPS, Tag.STRIP_SIZES} & page.entries.keys()
    is_tiled = bool(of_tiles)
    if is_tiled == bool(of_strips):
        raise OSError("its pixels must lie either in strips or in tiles")
    if is_tiled:
        height, width = page.value(Tag.TILE_HEIGHT, 0), page.value(Tag.TILE_WIDTH, 0)
    else:
        height, width = min(page.value(Tag.STRIP_ROWS, page.height), page.height), page.width
    name = "tiles" if is_tiled else "strips"
    if min(height, width) < 1:
        raise OSError(f"its {name} must be 1 x 1 or larger, got {height} x {width}")
    starts = page.values(Tag.TILES if is_tiled else Tag.STRIPS)
    sizes = page.values(Tag.TILE_SIZES if is_tiled else Tag.STRIP_SIZES)
    num_planes = page.num_samples if page.is_separate else 1
    rows, columns = -(-page.height // height), -(-page.width // width)
    expected = prod((rows, columns, num_planes))
    # Old files leave out the size of a strip that is alone.
    if len(starts) != expected or (len(sizes) != expected and (sizes or expected > 1)):
        raise OSError(
            f"{page.height} x {page.width} pixels must lie in {expected} {name} of {height} x "
            f"{width}, got {len(starts)} starts and {len(sizes)} sizes"
        )
    if min(starts) < LEAST_POSITION:
        raise OSError(f"its {name} must lie behind the file's header, got {min(starts)}")
    # Some readers find the pixels all the same, others take them for black.
    if sizes and min(sizes) < 1:
        raise OSError(f"its {name} must have 1 byte or more, got {min(sizes)}")
    if page.compression != 1 and page.compression not in _DEFLATE:
        return  # only the decoder can tell how many bytes they hold
    row_bytes = -(-width * page.num_samples // num_planes * page.bits[0] // 8)
    last_rows = height if is_tiled else page.height - (rows - 1) * height
    for number, start in enumerate(starts):
        is_last = number // columns % rows == rows - 1
        needed = row_bytes * (last_rows if is_last else height)
        size = sizes[number] if sizes else len(page.data) - start
        if page.compression in _DEFLATE:
            _check_deflated(page, start, size, needed=needed, most=row_bytes * height)
        elif size < needed:
            raise OSError(f"{name} {number} must have {needed} bytes, got {size}")
        elif start + needed > len(page.data):
            raise OSError("its data end before its pixels do")


def _check_deflated(page: Page, start: int, size: int, *, needed: int, most: int) -> None:
    """Checks how many bytes a strip or tile holds.

    Args:
        most: the bytes of a full strip, to which some programs pad the last one.
    """
    data = memoryview(page.data)[start : start + size]
    parts = (bytes(data[at : at + _PART_BYTES]) for at in range(0, len(data), _PART_BYTES))
    if page.value(Tag.FILL_ORDER, 1) == 2:
        parts = (part.translate(_REVERSED_BITS) for part in parts)
    try:
        found = inflated_size(parts, most=most + 1)
    except zlib.error as error:
        raise OSError(f"its deflated data are damaged: {error}") from None
    if found < needed and start + size > len(page.data):
        raise OSError("its data end before its pixels do")
    if not needed <= found <= most:
        raise OSError(f"its deflated data must hold {needed} bytes for its pixels, got {found}")

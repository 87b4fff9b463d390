"""TIFF layout: whether a page says without contradiction where its pixels lie, and has them all.

Takes the pages of `tiff_pages.py`, before `tiff.py` has them decoded: decoders fill up what strips
or tiles leave out, and differ in which of two contradictory numbers they take.
"""

from math import prod

from pipeline.corpora.tiff_pages import LEAST_POSITION, Page, Tag

_OLD_JPEG = 6
_ALLOWED = {Tag.PLANES: (1, 2), Tag.FILL_ORDER: (1, 2), Tag.PREDICTOR: (1, 2, 3)}
_WITH_PREDICTORS = (5, 8, 32946, 34925, 50000)
"""Compressions that have one; with others, readers differ in whether they apply it."""
_OF_ONE_NUMBER = (
    Tag.WIDTH, Tag.HEIGHT, Tag.COMPRESSION, Tag.PHOTOMETRIC, Tag.FILL_ORDER, Tag.ORIENTATION,
    Tag.SAMPLES, Tag.STRIP_ROWS, Tag.PLANES, Tag.PREDICTOR, Tag.TILE_WIDTH, Tag.TILE_HEIGHT,
)  # fmt: skip
_OF_NUMBERS = (
    Tag.BITS, Tag.STRIPS, Tag.STRIP_SIZES, Tag.COLOURS, Tag.TILES, Tag.TILE_SIZES, Tag.EXTRA,
    Tag.FORMAT,
)  # fmt: skip


def check_layout(page: Page) -> None:
    """Refuses a page whose tags contradict each other or do not give all pixels a place.

    Raises:
        OSError: says which tag.
    """
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
    if page.compression != _OLD_JPEG:  # whose data lie where other tags say
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
    if page.compression != 1:
        return  # what lies in them is for the decoder to see
    row_bytes = -(-width * page.num_samples // num_planes * page.bits[0] // 8)
    last_rows = height if is_tiled else page.height - (rows - 1) * height
    for number, start in enumerate(starts):
        is_last = number // columns % rows == rows - 1
        needed = row_bytes * (last_rows if is_last else height)
        if sizes and sizes[number] < needed:
            raise OSError(f"{name} {number} must have {needed} bytes, got {sizes[number]}")
        if start + needed > len(page.data):
            raise OSError("its data end before its pixels do")

"""Reads the pixels of a TIFF page, by the file's own tags.

Takes the page that `tiff_pages.py` finds; `decoding.py` takes the image. Pillow decodes; this
module adds what Pillow does not do, or does wrong:

- Samples of more than 8 bits are scaled by the tags (see `levels.py`), colours of 16 bits in
  separate planes are read plane by plane, and white-is-zero holds for all depths.
- All other kinds of pixels are refused with their description, not read as a similar kind.
"""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, TiffImagePlugin  # noqa: F401  the plugin opens what is written here

from maskformer import to_rgb
from pipeline.corpora.levels import (
    Range,
    UnsupportedPixels,
    check_bits_used,
    check_high_bytes,
    grey,
)
from pipeline.corpora.tiff_layout import check_layout
from pipeline.corpora.tiff_pages import OF_CAMERAS, Page, Tag, single_page_file

_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
"""Those that Pillow's libtiff decodes; it writes to stderr where it is given others."""

_INKS = {2: "RGB", 5: "CMYK"}
"""The modes, by photometric, whose planes can be merged."""


class CameraFile(ValueError):
    """A file with the samples of a camera's sensor, which only its maker can develop."""


def check_page(page: Page) -> None:
    """Raises for a page that Pillow would not read, or not as it is meant.

    Raises:
        CameraFile: it holds the samples of a sensor.
        UnsupportedPixels: its pixels are of another kind that is not read.
        OSError: its tags contradict each other, or data are missing.
    """
    if page.is_of_camera and page.photometric in OF_CAMERAS:
        raise CameraFile(f"a camera's raw file, DNG: {page}")
    is_read = (
        page.photometric in (0, 1, 2, 3, 5, 6)
        and len(page.bits) == page.num_samples
        and len({*page.bits}) == 1
        and page.compression in _COMPRESSIONS
        # Only the JPEG decoder converts YCbCr to colours.
        and (page.photometric != 6 or page.compression in (6, 7))
        and (_is_plain(page) or _is_deep_grey(page))
    )
    if not is_read:
        raise UnsupportedPixels(f"{page}; pixels of this kind are not read")
    check_layout(page)


def load_page(page: Page) -> Image.Image:
    """Decodes the page's pixels, upright and RGB."""
    check_page(page)
    depth = page.bits[0]
    try:
        if _is_deep_grey(page):
            image = _grey(page, _plane(page, 0))
        elif page.is_separate and page.photometric in _INKS and depth in (8, 16):
            image = _colours(page)
        else:
            image = _as_pillow_reads(page)
            if depth == 16:
                _check_range(image, page.range)
    except UnsupportedPixels as error:
        raise UnsupportedPixels(f"{page}; {error}") from error
    rgb = to_rgb(image)
    return rgb.copy() if rgb is image else rgb  # without the file's decoder


def _is_plain(page: Page) -> bool:
    return page.bits[0] in (1, 2, 4, 8, 16) and page.formats <= {"unsigned", "undefined"}


def _is_deep_grey(page: Page) -> bool:
    """True for grey of a depth that has to be scaled, in a form that Pillow can read."""
    if page.photometric not in (0, 1) or page.num_samples != 1 or len(page.formats) != 1:
        return False
    # Pillow swaps the bytes of compressed big-endian samples of 32 bits twice.
    is_swapped_twice = page.order == ">" and page.compression != 1
    return (page.bits[0], *page.formats) in (
        *((12, "unsigned"), (16, "unsigned"), (16, "undefined"), (16, "signed")),
        *(() if is_swapped_twice else ((32, "unsigned"), (32, "signed"), (32, "float"))),
    )


def _grey(page: Page, samples: np.ndarray) -> Image.Image:
    levels = grey(samples, bits=page.bits[0], limits=page.range)
    return Image.fromarray(255 - levels if page.photometric == 0 else levels)


def _colours(page: Page) -> Image.Image:
    """Merges the planes of the colours, each scaled as grey; others, as alpha, are left out."""
    mode, bits = _INKS[page.photometric], page.bits[0]
    samples = np.stack([_plane(page, number) for number in range(len(mode))])
    limits = page.range
    if limits.white is None and limits.largest is None:
        check_bits_used(int(samples.max()), bits=bits)
        limits = replace(limits, largest=(1 << bits) - 1)
    planes = [Image.fromarray(grey(plane, bits=bits, limits=limits)) for plane in samples]
    return Image.merge(mode, planes)


def _plane(page: Page, number: int) -> np.ndarray:
    """Reads the samples of one colour, upright, in the type that the file says."""
    changes: dict[int, Sequence[int]] = {
        Tag.PHOTOMETRIC: (1,),
        Tag.SAMPLES: (1,),
        Tag.PLANES: (1,),
        Tag.BITS: page.bits[:1],
        Tag.EXTRA: (),
    }
    is_wide, formats = page.bits[0] == 32, page.formats
    # Pillow treats unsigned and signed samples of 32 bits alike.
    changes[Tag.FORMAT] = (3,) if formats == {"float"} else (2,) if is_wide else (1,)
    for tag in (Tag.STRIPS, Tag.STRIP_SIZES, Tag.TILES, Tag.TILE_SIZES):
        values = page.values(tag)
        each = len(values) // page.num_samples
        changes[tag] = values[number * each : (number + 1) * each]
    with _open(single_page_file(page, changes)) as image:
        image.load()
        samples = np.asarray(image)
    if formats == {"float"}:
        return samples
    bytes_each = max(1, (page.bits[0] + 7) // 8)
    unsigned = samples.astype(f"=u{bytes_each}")
    return unsigned.view(f"=i{bytes_each}") if formats == {"signed"} else unsigned


def _as_pillow_reads(page: Page) -> Image.Image:
    """Reads the page by Pillow, with its own directory where it is the first of the file."""
    colours = page.values(Tag.COLOURS)
    is_dark_palette = page.photometric == 3 and colours and max(colours) < 256
    if is_dark_palette:  # old programs write 8 bits in place of 16
        data = single_page_file(page, {Tag.COLOURS: [each * 257 for each in colours]})
    else:
        data = page.data if page.is_usual else single_page_file(page, {})
    with _open(data) as image:
        image.load()
        return image


def _check_range(image: Image.Image, limits: Range) -> None:
    """Raises for colours of 16 bits of which Pillow keeps the wrong 8."""
    if limits.white not in (None, 65535) or (
        limits.largest is not None and limits.largest < 1 << 15
    ):
        raise UnsupportedPixels("colours of 16 bits whose tags say another white are not read")
    if limits.largest is None:
        check_high_bytes(image)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=["TIFF"])

"""Formats: the endings that promise an image, in folders and archives alike.

Formats that are not read are named too: an image of one gets a row that says so, where a name that
promises nothing is only counted.
"""

from pipeline.corpora.decoding import ImageError, what_it_looks_like
from pipeline.corpora.endings import OTHER_UNREAD_ENDINGS, RAW_ENDINGS

_UNREAD_ENDINGS = frozenset([*RAW_ENDINGS, *OTHER_UNREAD_ENDINGS])
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# Brands that the decoder tells by itself, or may read.
_KNOWN_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")


def ending(name: str) -> str:
    """What follows the last dot of a path, in lower case; empty where there is none."""
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if dot else ""


def unread_format(data: bytes, *, name: str, place: str) -> ImageError | None:
    """The error of bytes in a format that is known by its ending and that the decoder would misread
    or not know; None for all others.

    A camera's raw file begins like a TIFF, with a small preview in it. Bytes of a format that is
    read are taken whatever the file is called.
    """
    promised = ending(name)
    if promised not in _UNREAD_ENDINGS or not data:
        return None
    is_tiff = data.startswith(_TIFF_STARTS) and promised in RAW_ENDINGS
    is_other_brand = data[4:8] == b"ftyp" and data[8:12] not in _KNOWN_BRANDS
    if not (is_tiff or is_other_brand or what_it_looks_like(data) == ""):
        return None
    return ImageError(
        "UnsupportedFormat",
        f"{place}: .{promised} is a format of images that is not read; convert it, as to JPEG or "
        "PNG",
    )

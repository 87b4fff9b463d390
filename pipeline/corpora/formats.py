"""Lists the file endings of images, in folders and archives alike.

Endings of formats that are not read are listed too: such an image gets a row with an error, while a
file with an unknown ending is only counted.
"""

from pipeline.corpora.decoding import ImageError, guess_content

_READ_ENDINGS = (
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "avif", "jp2",
    "jpe", "jfif", "jfi", "jif", "mpo", "apng", "dib", "pgm", "pbm", "pnm", "avifs",
    "j2k", "j2c", "jpc", "jpf", "jpx",
)  # fmt: skip
_RAW_ENDINGS = (
    "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "srw", "raf", "rw2", "rwl",
    "orf", "pef", "3fr", "fff", "iiq", "mrw", "x3f", "erf", "kdc", "dcr",
)  # fmt: skip
_OTHER_UNREAD_ENDINGS = (
    "heic", "heif", "heics", "heifs", "hif", "avci", "jxl", "jxr", "wdp", "hdp", "psd", "psb",
    "exr", "dds", "tga", "pcx", "qoi", "xcf", "dcm",
)  # fmt: skip
_UNREAD_ENDINGS = frozenset([*_RAW_ENDINGS, *_OTHER_UNREAD_ENDINGS])
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# Brands that the decoder itself recognises, or may read.
_KNOWN_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")

IMAGE_ENDINGS = (*_READ_ENDINGS, *_RAW_ENDINGS, *_OTHER_UNREAD_ENDINGS)
"""In lower case, without the dot. Of an archive's members with one name the image is the one whose
ending comes first here, so that a photograph goes before its raw file."""


def ending(name: str) -> str:
    """Returns the part behind the last dot of a path in lower case, empty where there is none."""
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if dot else ""


def unread_format(data: bytes, *, name: str, place: str) -> ImageError | None:
    """Returns an error for a format that its ending tells and that the decoder would misread.

    A camera's raw file begins like a TIFF, with a small preview in it. Bytes of a format that is
    read are accepted under any name.
    """
    promised = ending(name)
    if promised not in _UNREAD_ENDINGS or not data:
        return None
    is_tiff = data.startswith(_TIFF_STARTS) and promised in _RAW_ENDINGS
    is_other_brand = data[4:8] == b"ftyp" and data[8:12] not in _KNOWN_BRANDS
    if not (is_tiff or is_other_brand or guess_content(data) == ""):
        return None
    return ImageError(
        "UnsupportedFormat",
        f"{place}: .{promised} is a format of images that is not read; convert it, as to JPEG or "
        "PNG",
    )

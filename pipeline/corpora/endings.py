"""Lists the file endings of images, in folders and archives alike.

Endings of formats that are not read are listed too: such an image gets a row with an error, while a
file with an unknown ending is only counted.
"""

READ_ENDINGS = (
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "avif", "jp2",
    "jpe", "jfif", "jfi", "jif", "mpo", "apng", "dib", "pgm", "pbm", "pnm", "avifs",
    "j2k", "j2c", "jpc", "jpf", "jpx",
)  # fmt: skip
RAW_ENDINGS = (
    "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "srw", "raf", "rw2", "rwl",
    "orf", "pef", "3fr", "fff", "iiq", "mrw", "x3f", "erf", "kdc", "dcr",
)  # fmt: skip
OTHER_UNREAD_ENDINGS = (
    "heic", "heif", "heics", "heifs", "hif", "avci", "jxl", "jxr", "wdp", "hdp", "psd", "psb",
    "exr", "dds", "tga", "pcx", "qoi", "xcf", "dcm",
)  # fmt: skip

IMAGE_ENDINGS = (*READ_ENDINGS, *RAW_ENDINGS, *OTHER_UNREAD_ENDINGS)
"""In lower case, without the dot. Of an archive's members with one name the image is the one whose
ending comes first here, so that a photograph goes before its raw file."""


def ending(name: str) -> str:
    """Returns the part behind the last dot of a path in lower case, empty where there is none."""
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if dot else ""

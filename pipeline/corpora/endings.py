"""Lists the endings of file names that promise an image."""

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
"""In lower case and without the dot; of an archive's members with one name the first ending here is
the image, so that a photograph goes before its raw file."""

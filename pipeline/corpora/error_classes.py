"""Lists the classes of errors that an image's row can have: `error_class` of a table.

They are stable across versions: people count by them and ask for images again by them. What each
means and what to do stands in `pipeline/README.md`; a test compares that page with this list.
"""

from typing import Literal, get_args

ErrorClass = Literal[
    # bytes and pixels of an image: decoding.py
    "EmptyFile",
    "NotAnImage",
    "UnsupportedFormat",
    "UnsupportedPixels",
    "TruncatedImage",
    "DamagedImage",
    "DecompressionBomb",
    "TooLarge",
    "OutOfMemory",
    # places, archives, manifests and Parquet files: the readers
    "NotFound",
    "BadLocation",
    "NoImageMember",
    "DuplicateKey",
    "PartialMember",
    "TruncatedArchive",
    "DamagedArchive",
    "DamagedParquet",
    "NoImageColumn",
    "NoKeyColumn",
    # processes that ended or hung, and the model's device: labelling/
    "DecoderCrashed",
    "DecoderHung",
    "SegmenterCrashed",
    "SegmenterHung",
    "SegmenterOutOfMemory",
]

ERROR_CLASSES: frozenset[ErrorClass] = frozenset(get_args(ErrorClass))
"""All of them."""

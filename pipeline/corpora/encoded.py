"""Holds encoded images as read from their sources.

`reading.py` and `tars.py` make them; `decoding.py` takes their bytes.
"""

from dataclasses import dataclass, replace

from pipeline.corpora.decoding import ImageError, guess_content
from pipeline.corpora.endings import OTHER_UNREAD_ENDINGS, RAW_ENDINGS, ending
from pipeline.corpora.error_classes import ErrorClass
from pipeline.corpora.settings import ReadSettings
from pipeline.corpora.sources import Source

_UNREAD_ENDINGS = frozenset([*RAW_ENDINGS, *OTHER_UNREAD_ENDINGS])
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# Brands that the decoder itself recognises, or may read.
_KNOWN_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image as its source stores it, or the error that took its place."""

    image_id: str
    uri: str
    """The object that holds it."""
    member: str | None
    """Its name in an archive."""
    etag: str
    data: bytes | None
    """None where there is an error."""
    error: ImageError | None = None
    row: int | None = None
    """Its row in a Parquet file."""

    @property
    def name(self) -> str:
        """Returns its location, for messages."""
        if self.member is not None:
            return f"{self.uri}, member {self.member}"
        return self.uri if self.row is None else f"{self.uri}, row {self.row}"


def too_large(size: int, *, settings: ReadSettings) -> str:
    return (
        f"an image may have at most {settings.max_image_bytes} bytes, this has {size}; "
        "raise max_image_bytes to allow it"
    )


def failed_source(
    source: Source, error_class: ErrorClass, message: str, *, at: int | None = None
) -> EncodedImage:
    """Returns an error of the source itself, with an id that no other slice of it uses."""
    at = source.start if at is None else at
    image_id = f"{source.name}@{at}" if at else source.name
    error = ImageError(error_class, f"{source.uri}: {message}")
    return encoded_image(source, image_id=image_id, data=None, error=error)


def encoded_image(
    source: Source,
    *,
    image_id: str,
    data: bytes | None,
    member: str | None = None,
    error: ImageError | None = None,
    row: int | None = None,
) -> EncodedImage:
    """Returns an image of a source; an error if its name tells a format that is not read."""
    image = EncodedImage(
        image_id=image_id,
        uri=source.uri,
        member=member,
        etag=source.etag,
        data=data,
        error=error,
        row=row,
    )
    if data is not None and row is None:
        unread = _unread_format(data, ending(member or source.uri), location=image.name)
        if unread is not None:
            return replace(image, data=None, error=unread)
    return image


def _unread_format(data: bytes, ending: str, *, location: str) -> ImageError | None:
    """Returns an error for a format that its ending tells and that the decoder would misread.

    A camera's raw file begins like a TIFF, with a small preview in it. Bytes of a format that is
    read are accepted under any name.
    """
    if ending not in _UNREAD_ENDINGS or not data:
        return None
    is_tiff = data.startswith(_TIFF_STARTS) and ending in RAW_ENDINGS
    is_other_brand = data[4:8] == b"ftyp" and data[8:12] not in _KNOWN_BRANDS
    if not (is_tiff or is_other_brand or guess_content(data) == ""):
        return None
    return ImageError(
        "UnsupportedFormat",
        f"{location}: .{ending} is a format of images that is not read; convert it, as to JPEG or "
        "PNG",
    )

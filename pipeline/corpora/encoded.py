"""Holds encoded images as read from their sources, and the settings of that reading.

`reading.py` and `tars.py` make them; `decoding.py` takes their bytes.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.formats import IMAGE_ENDINGS, unread_format
from pipeline.corpora.sources import Source


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """Settings that find images in sources and bound their size."""

    image_members: tuple[str, ...] = IMAGE_ENDINGS
    """Extensions of an archive's members that are images. Of members with one name the first in
    this order is the image, and the others are counted. By default, as in a folder."""
    image_column: str | None = None
    """The Parquet column with the encoded images; None finds it by name and type."""
    key_column: str | None = None
    """The Parquet column whose values are image ids; None numbers the rows."""
    max_image_bytes: int = 2**29
    """A larger encoded image is an error."""
    max_image_pixels: int = 178_956_970
    """An image with more pixels is an error, before any of them takes memory."""
    image_seconds: float = 120
    """An image that takes longer to decode is an error."""
    image_memory_bytes: int = 2**32
    """An image that takes more memory to decode is an error."""
    decode: Literal["exact", "fast"] = "exact"
    """`fast` decodes JPEGs of twice the model's size and more at a reduced scale."""

    def __post_init__(self) -> None:
        for name in ("max_image_bytes", "max_image_pixels", "image_memory_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_seconds <= 0:
            raise ValueError(f"image_seconds must be above 0, got {self.image_seconds}")
        if not self.image_members:
            raise ValueError("image_members must name at least one extension, as jpg")


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
    source: Source, error_class: str, message: str, *, at: int | None = None
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
        unread = unread_format(data, name=member or source.uri, place=image.name)
        if unread is not None:
            return replace(image, data=None, error=unread)
    return image

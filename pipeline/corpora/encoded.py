"""Encoded images as their sources have them.

`reading.py` and `tars.py` make them; `decoding.py` takes their bytes.
"""

from dataclasses import dataclass, replace

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.formats import unread_format
from pipeline.corpora.settings import ReadSettings
from pipeline.corpora.sources import Source


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image as its source has it, or what kept us from getting it."""

    image_id: str
    uri: str
    """Of the object that holds it."""
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
        """Where it lies, for messages."""
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
    """A row for the source itself, whose id no other slice of it uses."""
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
    """An image of a source; in error where its format is known by its name and not read."""
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

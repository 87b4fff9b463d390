"""Settings of reading: they find images in their sources and bound one image."""

from dataclasses import dataclass
from typing import Literal

from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.runtime.bounds import check_above_zero, check_at_least


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """Image files, and the limits of one image."""

    image_members: tuple[str, ...] = IMAGE_ENDINGS
    """Extensions of an archive's members that are images. Of members with one name the first in
    this order is the image; the others are left alone and counted. By default all that are images
    in a folder."""
    image_column: str | None = None
    """Parquet column with the encoded images; found by name and type where not given."""
    key_column: str | None = None
    """Parquet column with the image ids; rows are numbered where not given."""
    max_image_bytes: int = 2**29
    """An encoded image with more bytes is an error."""
    max_image_pixels: int = 178_956_970
    """An image with more pixels is an error, found before they take memory."""
    image_seconds: float = 120
    """An image that takes longer to decode is an error."""
    image_memory_bytes: int = 2**32
    """An image that takes more memory to decode is an error."""
    decode: Literal["exact", "fast", "gpu"] = "exact"
    """fast decodes JPEGs of twice the model's size and more at a reduced scale; gpu decodes plain
    JPEGs on the GPU, to pixels that differ a little."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "max_image_bytes", "max_image_pixels", "image_memory_bytes")
        check_above_zero(self, "image_seconds")
        if not self.image_members:
            raise ValueError("image_members must name at least one extension, as jpg")

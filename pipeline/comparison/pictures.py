"""Draws images three times: as they are, with the segments of one table, and with the other's.

The pictures are small JPEGs for a page. Where an image is gone or cannot be drawn, the reason
stands in their place: the comparison itself is not concerned.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.image_parts import ImagePart, ImageParts, MissingImage
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.storage import SourceChanged, StorageFault
from pipeline.table.drawing import draw_segments
from pipeline.table.latest import rows_of_images
from pipeline.table.small_pictures import drawable, shrunk_size, small_jpeg, small_mask
from pipeline.table.store import TableStore

_MOST_PIXELS = 64_000_000
_MOST_JPEG_BYTES = 24_000


@dataclass(frozen=True, kw_only=True)
class Triple:
    """Three small JPEGs of one image, or the reason why there are none."""

    image_id: str
    jpegs: tuple[bytes, ...] = ()
    """The image, the first table's segments on it, the second's."""
    missing: str = ""
    height: int = 0
    width: int = 0


def draw_triples(
    first: TableStore,
    second: TableStore,
    image_ids: Sequence[str],
    *,
    reading: ReadSettings,
    picture_bytes: int,
) -> dict[str, Triple]:
    """Returns the pictures by image_id.

    Args:
        picture_bytes: most encoded bytes to read of one image.
    """
    sides = [rows_of_images(table, image_ids) for table in (first, second)]
    of_image: list[dict[str, list[dict[str, Any]]]] = []
    for _, segments in sides:
        by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for segment in segments:
            by_id[segment["image_id"]].append(segment)
        of_image.append(by_id)
    # The second table is the newer one, so that its locations are more likely to be there still.
    rows = {row["image_id"]: row for row in sides[1][0]}
    found: dict[str, Triple] = {}
    parts = ImageParts(storage=second.storage, reading=reading)
    for image_id, part in parts.find_all([*rows.values()]):
        found[image_id] = _triple(
            part,
            rows[image_id],
            [by_id[image_id] for by_id in of_image],
            table=second,
            reading=reading,
            picture_bytes=picture_bytes,
        )
    return found


def _triple(
    part: ImagePart | MissingImage,
    row: Mapping[str, Any],
    segments: Sequence[Sequence[Mapping[str, Any]]],
    *,
    table: TableStore,
    reading: ReadSettings,
    picture_bytes: int,
) -> Triple:
    image_id = row["image_id"]
    size = (row["height"], row["width"])
    if isinstance(part, MissingImage):
        return Triple(image_id=image_id, missing=str(part))
    if size[0] * size[1] > _MOST_PIXELS:
        return Triple(image_id=image_id, missing=f"{size[0]} x {size[1]} is too large to draw")
    if part.source.kind != "parquet" and part.source.num_bytes > picture_bytes:
        return Triple(image_id=image_id, missing=f"it has more than {picture_bytes:,} bytes")
    try:
        read = read_source(part.source, storage=table.storage, settings=reading)
        image = next((image for image in read if image.image_id == image_id), None)
        if image is None or image.data is None:
            return Triple(image_id=image_id, missing="it cannot be read any more")
        small = shrunk_size(size)
        decoded = decode(
            image.data, name=image.name, mode="fast", target_size=small, max_pixels=_MOST_PIXELS
        )
        photo = decoded.image.convert("RGB").resize((small[1], small[0]))
        pictures = [
            photo,
            *(draw_segments(photo, drawable(own), mask_of=small_mask) for own in segments),
        ]
    except (SourceChanged, StorageFault):
        return Triple(image_id=image_id, missing="it changed or storage failed meanwhile")
    except ImageError as error:
        return Triple(image_id=image_id, missing=f"it cannot be decoded: {error.error_class}")
    except (ValueError, MemoryError) as error:  # a missing picture must not stop the report
        return Triple(image_id=image_id, missing=f"it cannot be drawn: {type(error).__name__}")
    return Triple(
        image_id=image_id,
        jpegs=tuple(small_jpeg(picture, most_bytes=_MOST_JPEG_BYTES) for picture in pictures),
        height=small[0],
        width=small[1],
    )

"""Draws segments over their images, and contact sheets of several images.

Takes rows of a segment table, and reads the images again from the locations in them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskformer import decode_rle
from pipeline.corpora.corpus import kind_of
from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.storage import Storage
from pipeline.table import latest
from pipeline.table.label_colours import segment_colour
from pipeline.table.store import TableStore

_SMALLEST_NAMED_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class SheetLayout:
    """Columns and size of a contact sheet's tiles, in pixels."""

    columns: int = 3
    tile_width: int = 480


def contact_sheet(
    table: str,
    image_ids: Sequence[str],
    *,
    storage: Storage | None = None,
    reading: ReadSettings | None = None,
    layout: SheetLayout | None = None,
) -> Image.Image:
    """Draws images of a table side by side, with their latest segments, in the given order."""
    layout = layout or SheetLayout()
    storage = storage or Storage().with_environment()
    rows, segments = latest.rows_of_images(TableStore(table, storage), image_ids)
    of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in segments:
        of_image[row["image_id"]].append(row)
    photos = find_images(rows, storage=storage, reading=reading or ReadSettings())
    tiles = [
        draw_segments(photos[image_id], of_image[image_id])
        for image_id in image_ids
        if image_id in photos
    ]
    return _sheet(tiles, layout=layout)


def photograph_beside_overlay(
    table: str, image_id: str, *, storage: Storage | None = None, height: int = 512
) -> Image.Image:
    """Draws an image of a table twice, as it is and with its latest segments over it.

    Raises:
        KeyError: the image cannot be read any more where the table says that it lies.
    """
    storage = storage or Storage().with_environment()
    rows, segments = latest.rows_of_images(TableStore(table, storage), [image_id])
    photo = find_images(rows, storage=storage, reading=ReadSettings())[image_id].convert("RGB")
    width = round(height * photo.width / photo.height)
    photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    drawn = draw_segments(photo, segments, mask_of=lambda row: _mask_of_size(row, photo.size))
    pair = Image.new("RGB", (2 * width + height // 64, height), "white")
    for left, picture in ((0, photo), (pair.width - width, drawn)):
        pair.paste(picture, (left, 0))
    return pair


def find_images(
    rows: Sequence[Mapping[str, Any]], *, storage: Storage, reading: ReadSettings
) -> dict[str, Image.Image]:
    """Reads the images of rows of `images` from their sources, by image_id.

    Leaves out images that cannot be decoded.
    """
    wanted: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        wanted[row["uri"], row["etag"]].add(row["image_id"])
    found = {}
    for (uri, etag), image_ids in wanted.items():
        kind = kind_of(uri)
        # An image_id in an archive begins with the archive's name; that of a file is its name.
        example = next(iter(image_ids))
        ending = uri.rsplit("/", 1)[1]
        name = example if kind in ("file", None) else example[: example.find(ending) + len(ending)]
        file = storage.file(uri)
        source = Source(
            uri=uri,
            name=name,
            kind=kind if kind in ("tar", "parquet") else "file",  # type: ignore[arg-type]
            etag=etag,
            size=file.size if file else 0,
        )
        for image in read_source(source, storage=storage, settings=reading):
            if image.image_id in image_ids and image.data is not None:
                try:
                    decoded = decode(
                        image.data, name=image.name, max_pixels=reading.max_image_pixels
                    )
                except ImageError:
                    continue
                found[image.image_id] = decoded.image
                if len(found) == len(image_ids):
                    break
    return found


def draw_segments(
    photo: Image.Image,
    rows: Sequence[Mapping[str, Any]],
    *,
    mask_of: Callable[[Mapping[str, Any]], np.ndarray] | None = None,
) -> Image.Image:
    """Tints and outlines each segment in the photo, and names it if it is large enough.

    A label has one colour in all pictures; segments of one label differ in brightness. A score of
    None is left out, and so is a name that would lie over that of a larger segment.

    Args:
        mask_of: returns the mask of a row, for a photo that is not of the image's full size.
    """
    mask_of = mask_of or _full_mask
    pixels = np.asarray(photo.convert("RGB"), np.float32)
    names: list[tuple[tuple[int, int], str]] = []
    for row in sorted(rows, key=lambda row: -row["area"]):
        mask = mask_of(row)
        colour = np.array(
            segment_colour(row["label"], row["label_id"], row["segment_id"]), np.float32
        )
        pixels = np.where(mask[..., None], 0.5 * pixels + 0.5 * colour, pixels)
        pixels[_outline(mask)] = colour
        if mask.sum() >= _SMALLEST_NAMED_SHARE * mask.size:
            score = "" if row["score"] is None else f" {row['score']:.2f}"
            names.append((_inside(mask), f"{row['label']}{score}"))
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, photo.height // 28))
    taken: list[tuple[float, float, float, float]] = []
    for (x, y), name in names:
        half = draw.textlength(name, font) / 2 + 3
        x = int(min(max(x, half), max(half, photo.width - half)))  # keeps names at the edge whole
        box = draw.textbbox((x, y), name, font, anchor="mm", stroke_width=2)
        if any(_is_touching(box, other) for other in taken):
            continue
        taken.append(box)
        draw.text((x, y), name, "white", font, anchor="mm", stroke_width=2, stroke_fill="black")
    return picture


def _mask_of_size(row: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Returns a mask in the size of a picture (width, height), with smooth edges."""
    mask = Image.fromarray(_full_mask(row).astype(np.uint8) * 255)
    return np.asarray(mask.resize(size, Image.Resampling.BICUBIC)) > 127


def _full_mask(row: Mapping[str, Any]) -> np.ndarray:
    return decode_rle(row["rle"], height=row["height"], width=row["width"])


def _is_touching(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    """Returns whether two boxes (left, top, right, bottom) share a point."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _sheet(tiles: Sequence[Image.Image], *, layout: SheetLayout) -> Image.Image:
    width, columns = layout.tile_width, min(layout.columns, max(1, len(tiles)))
    scaled = [t.resize((width, max(1, round(t.height * width / t.width)))) for t in tiles]
    lines = [scaled[i : i + columns] for i in range(0, len(scaled), columns)]
    heights = [max(tile.height for tile in line) for line in lines]
    sheet = Image.new("RGB", (columns * width, sum(heights) or 1), "white")
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for index, tile in enumerate(line):
            sheet.paste(tile, (index * width, top))
        top += height
    return sheet


def _outline(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of the mask with a neighbour outside it."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _inside(mask: np.ndarray) -> tuple[int, int]:
    """Returns a point (x, y) in the mask: the middle of the longest run of its middle row."""
    rows = np.flatnonzero(mask.any(1))
    y = int(rows[len(rows) // 2])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[y].view(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).argmax())
    return int(starts[longest] + ends[longest]) // 2, y

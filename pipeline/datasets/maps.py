"""Decodes maps of labels and of segment ids to the numbers that were written.

No value changes: a palette's indices are the labels, 16 bits stay 16 bits, and lossy formats (JPEG)
are refused. Three equal channels are read as one, and an alpha channel that is the same everywhere
is dropped.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import (  # noqa: F401  the plugins that may run: importing one registers it
    BmpImagePlugin,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
)

from pipeline.corpora.decoding import guess_content
from pipeline.datasets.data_location import DataLocation, labels_source
from pipeline.datasets.target import (
    LabelError,
    Labels,
    SegmentInfo,
    Target,
    id_map_target,
    rgb_ids,
)
from pipeline.storage import Storage

MAP_ENDINGS = ("png", "tif", "tiff", "bmp")
_FORMATS = ("PNG", "TIFF", "BMP")
_DEPTHS = {"1": np.uint8, "L": np.uint8, "P": np.uint8}
_WIDE = ("I;16", "I;16B", "I;16L", "I")
_COLOURS = ("RGB", "RGBA")
_WITH_ALPHA = ("LA", "RGBA", "PA")
_BITS_PER_SAMPLE = 258  # TIFF's tag


def read_id_map(
    row: Mapping[str, Any], segments: Sequence[SegmentInfo], *, labels: Labels, storage: Storage
) -> Target:
    """Reads the map of segment ids at the location `map` of a data set's row.

    Raises:
        LabelError: it is damaged, or does not fit the descriptions of its segments.
    """
    location = DataLocation(**row["map"])
    source = labels_source(row, location)
    described = {segment.id for segment in segments}
    ids = decode_id_map(location.read(storage), source=source, described=described)
    return id_map_target(ids, segments, labels=labels, source=source)


def decode_label_map(data: bytes, *, source: str) -> Integer[np.ndarray, "height width"]:
    """Decodes a map with one channel, of 1, 8 or 16 bits, or with a palette.

    Raises:
        LabelError: it is no such map, or damaged; `source` says which.
    """
    with _open(data, source=source) as image:
        _refuse_alpha(image, source=source)
        if image.mode in _COLOURS:
            channels = np.asarray(image)
            grey = channels[..., 0]
            if not all(np.array_equal(grey, channels[..., other]) for other in (1, 2)):
                raise LabelError(
                    f"{source}: a label map has one channel of labels, this has colours "
                    f"({image.mode}); write the labels themselves as 8 or 16 bit grey, or say by "
                    '{"colors": {"road": [128, 64, 128], ...}} in labels.json what they mean'
                )
            return grey.copy()
        return _values(image, data, source=source)


def decode_id_map(
    data: bytes, *, source: str, described: Collection[int]
) -> Integer[np.ndarray, "height width"]:
    """Decodes a map of segment ids in one channel, or spread over red, green and blue as COCO's.

    Alpha is ignored.

    Args:
        described: the ids that the map may hold. They decide whether a palette's colours or its
            indices are the ids.

    Raises:
        LabelError: it is no such map, or damaged.
    """
    with _open(data, source=source) as image:
        if image.mode in _COLOURS:
            return rgb_ids(np.asarray(image.convert("RGB")))
        if image.mode in ("P", "PA"):
            ids = rgb_ids(np.asarray(image.convert("RGB")))
            if {*np.unique(ids).tolist()} <= {0, *described}:
                return ids
        return _values(image, data, source=source)


def decode_colours(
    data: bytes, *, source: str, grey_too: bool
) -> Integer[np.ndarray, "height width"] | None:
    """Decodes a map of colours to numbers, red in the lowest byte; None for another map.

    Args:
        grey_too: take grey maps and palettes for colours too, not three channels alone.

    Raises:
        LabelError: it is damaged.
    """
    with _open(data, source=source) as image:
        _refuse_alpha(image, source=source)
        if image.mode in _WIDE or not (grey_too or image.mode in _COLOURS):
            return None
        return rgb_ids(np.asarray(image.convert("RGB")))


def _open(data: bytes, *, source: str) -> Image.Image:
    """Decodes the image; any error of the decoder is a LabelError."""
    if not data:
        raise LabelError(f"{source}: the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if "cannot identify" in said:
            said = f"it is no PNG, TIFF or BMP{guess_content(data)}"
        raise LabelError(f"{source}: the map cannot be decoded: {said}") from error
    if image.mode in (*_COLOURS, *_WITH_ALPHA) and _bits(image, data) == 16:
        raise LabelError(
            f"{source}: a map with {len(image.getbands())} channels of 16 bits cannot be read "
            "whole; write one channel of 16 bits, or channels of 8"
        )
    return image


def _refuse_alpha(image: Image.Image, *, source: str) -> None:
    """Raises LabelError where the alpha channel varies, and so may be the mask itself."""
    if image.mode in _WITH_ALPHA and len({*image.getchannel("A").getextrema()}) > 1:
        raise LabelError(
            f"{source}: the alpha channel differs from pixel to pixel ({image.mode}), and labels "
            "are not read from there; write them as 8 or 16 bit grey"
        )


def _bits(image: Image.Image, data: bytes) -> int:
    """Returns the bits of a channel, as stored."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]  # in the header, which comes first
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, 1)).tolist())
    return 8


def _values(image: Image.Image, data: bytes, *, source: str) -> Integer[np.ndarray, "height width"]:
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[..., 0].copy()
    if image.mode in _DEPTHS:
        values = np.asarray(image).astype(_DEPTHS[image.mode])
        # Pillow spreads grey of 2 and 4 bits over a byte.
        spread = {2: 85, 4: 17}.get(_bits(image, data), 1) if image.mode == "L" else 1
        return values // spread if spread > 1 else values
    if image.mode in _WIDE:
        values = np.asarray(image)
        # Pillow calls some 16 bit files 32 bit ones.
        fits = values.size == 0 or 0 <= int(values.min()) <= int(values.max()) < 1 << 16
        return values.astype(np.uint16 if fits else np.int32)
    raise LabelError(
        f"{source}: a map has one channel of 1, 8 or 16 bits, this has the mode {image.mode}"
    )

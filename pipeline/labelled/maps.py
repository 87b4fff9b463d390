"""Maps of labels and ids: encoded bytes to whole numbers, each as it was written.

Nothing is converted that would change a value: a palette's indices are the labels, 16 bits stay 16
bits, and formats that lose something (JPEG) are refused.
"""

import io

import numpy as np
from jaxtyping import Integer
from PIL import (  # noqa: F401  the plugins that may run: importing one registers it
    BmpImagePlugin,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
)

from pipeline.corpora.decoding import what_it_looks_like
from pipeline.labelled.target import LabelError, rgb_ids

MAP_ENDINGS = ("png", "tif", "tiff", "bmp")
_FORMATS = ("PNG", "TIFF", "BMP")
_DEPTHS = {"1": np.uint8, "L": np.uint8, "P": np.uint8}
_WIDE = ("I;16", "I;16B", "I;16L", "I")


def decode_label_map(data: bytes, *, place: str) -> Integer[np.ndarray, "height width"]:
    """The values of a map with one channel, of 1, 8 or 16 bits, or of a palette.

    Raises:
        LabelError: it is no such map, or damaged; `place` says which.
    """
    with _open(data, place=place) as image:
        if image.mode in ("RGB", "RGBA"):
            raise LabelError(
                f"{place}: a label map has one channel of labels, this has colours ({image.mode}); "
                "write the labels themselves as 8 or 16 bit grey"
            )
        return _values(image, place=place)


def decode_id_map(data: bytes, *, place: str) -> Integer[np.ndarray, "height width"]:
    """The same for maps of segment ids, which may also be spread over red, green and blue.

    Raises:
        LabelError: it is no such map, or damaged.
    """
    with _open(data, place=place) as image:
        if image.mode == "RGB":
            return rgb_ids(np.asarray(image))
        return _values(image, place=place)


def _open(data: bytes, *, place: str) -> Image.Image:
    """The image, decoded; what a decoder trips over is the map's fault."""
    if not data:
        raise LabelError(f"{place}: the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if "cannot identify" in said:
            said = f"it is no PNG, TIFF or BMP{what_it_looks_like(data)}"
        raise LabelError(f"{place}: the map cannot be decoded: {said}") from error
    return image


def _values(image: Image.Image, *, place: str) -> Integer[np.ndarray, "height width"]:
    if image.mode in _DEPTHS:
        return np.asarray(image).astype(_DEPTHS[image.mode])
    if image.mode in _WIDE:
        values = np.asarray(image)
        # Pillow calls some 16 bit files 32 bit ones.
        fits = values.size == 0 or 0 <= int(values.min()) <= int(values.max()) < 1 << 16
        return values.astype(np.uint16 if fits else np.int32)
    raise LabelError(
        f"{place}: a map has one channel of 1, 8 or 16 bits, this has the mode {image.mode}"
    )

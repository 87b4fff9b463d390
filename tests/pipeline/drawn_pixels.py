"""A drawn picture whose pixels are known, and what decoding makes of a file of it."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.corpora.decoding import ImageError, decode, image_size

MAX_PIXELS = 10**7
_BLOCKS = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
RGBA = np.asarray(Image.fromarray(_BLOCKS).resize((80, 64), Image.Resampling.BICUBIC))
RGB, GREY = np.ascontiguousarray(RGBA[..., :3]), np.ascontiguousarray(RGBA[..., 0])


def pixels(data: bytes) -> np.ndarray:
    """Returns the decoded pixels, which have the size in the header."""
    decoded = decode(data, name="a", max_pixels=MAX_PIXELS)
    assert image_size(data, name="a", max_pixels=MAX_PIXELS) == (decoded.height, decoded.width)
    return np.asarray(decoded.image)


def error(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, name="corpus/a", max_pixels=MAX_PIXELS)
    assert "corpus/a" in caught.value.message
    return caught.value


def is_near(data: bytes, expected: np.ndarray, *, by: float = 1) -> bool:
    """Tells whether pixels are the expected ones, of which grey ones have one channel."""
    found = pixels(data).astype(float)
    expected = np.asarray(expected, float)
    expected = expected[..., None].repeat(3, -1) if expected.ndim == 2 else expected
    return found.shape == expected.shape and float(abs(found - expected).max()) <= by


def tiff(*pages: tuple[np.ndarray, dict[str, Any]], **options: Any) -> bytes:
    """A file of pages, written by tifffile."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for samples, page in pages:
            writer.write(samples, metadata=None, **page)
    return buffer.getvalue()


def tag(code: int, *values: float, type: str = "H") -> tuple[int, str, int, Any, bool]:
    """A tag for tifffile's `extratags`."""
    return code, type, len(values), values if len(values) > 1 else values[0], True

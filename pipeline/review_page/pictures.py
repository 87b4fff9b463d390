"""Makes the pictures that the page shows, in child processes with the limits of the job.

Takes bytes of `photographs.py`. An image that crashes its decoder, hangs or takes too much memory
ends a child, and nothing else.
"""

import contextlib
import io
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from maskformer import rle_runs
from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.encoded import EncodedImage
from pipeline.corpora.settings import ReadSettings
from pipeline.labelling.reading.guard import Guard
from pipeline.table.label_colours import segment_colour

_PHOTO_QUALITY = 92
THUMBNAIL_QUALITY = 82
_OVERLAY = 0.5


@dataclass(frozen=True, kw_only=True)
class PictureRequest(EncodedImage):
    """A photograph, and how to show it."""

    longest_side: int | None = None
    """Length in pixels that the longer side is scaled down to; None for the full size."""
    quality: int = _PHOTO_QUALITY
    height: int = 0
    width: int = 0
    """The size that the table has of it, which its segments have too."""
    segments: tuple[dict[str, Any], ...] = ()
    """Rows to draw over it."""


@dataclass(frozen=True, kw_only=True)
class PictureResult:
    """An encoded picture, or why there is none."""

    data: bytes = b""
    error: str | None = None


class PictureMaker:
    """Makes pictures with a few child processes; each call waits for a free one."""

    def __init__(self, reading: ReadSettings, *, num_children: int | None = None) -> None:
        count = num_children or max(1, min(4, os.cpu_count() or 1))
        make = partial(make_picture, max_pixels=reading.max_image_pixels)
        self._guards = [
            Guard(make, seconds=reading.image_seconds, memory_bytes=reading.image_memory_bytes)
            for _ in range(count)
        ]
        self._free: queue.SimpleQueue[Guard] = queue.SimpleQueue()
        for guard in self._guards:
            self._free.put(guard)
        self._is_closed = False

    def make(self, request: PictureRequest) -> bytes:
        """Returns a JPEG.

        Raises:
            ImageError: the photograph cannot be decoded within the limits.
        """
        guard = self._free.get()
        try:
            if self._is_closed:
                raise ImageError("DecoderCrashed", f"{request.name}: the server ends")
            result: PictureResult = guard(request)
        finally:
            self._free.put(guard)
        if result.error is not None:
            raise ImageError("DamagedImage", result.error)
        return result.data

    def warm_up(self) -> None:
        """Starts the child processes, so that the first pictures do not wait for them."""
        tiny = io.BytesIO()
        Image.new("RGB", (1, 1)).save(tiny, "PNG")
        request = PictureRequest(
            image_id="", uri="", member=None, etag="", data=tiny.getvalue(), longest_side=1
        )
        count = len(self._guards)
        with ThreadPoolExecutor(count) as pool, contextlib.suppress(ImageError, OSError):
            list(pool.map(self.make, [request] * count))

    def close(self) -> None:
        """Ends the child processes, with what they are making."""
        self._is_closed = True
        for guard in self._guards:
            guard.__exit__()


def make_picture(request: PictureRequest, *, max_pixels: int) -> PictureResult:
    """Decodes, puts upright, scales, draws and encodes; runs in a child process."""
    assert request.data is not None
    target = None
    if request.longest_side is not None:
        target = partial(_fitted, longest_side=request.longest_side)
    try:
        decoded = decode(
            request.data,
            name=request.name,
            mode="exact" if target is None else "fast",
            target_size=target,
            max_pixels=max_pixels,
        )
    except ImageError as error:
        return PictureResult(error=str(error))
    if request.height and (decoded.height, decoded.width) != (request.height, request.width):
        return PictureResult(
            error=f"{request.name} has {decoded.height} x {decoded.width} pixels, and the table "
            f"{request.height} x {request.width}"
        )
    picture = decoded.image
    if target is not None:
        height, width = target((decoded.height, decoded.width))
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if request.segments:
        picture = overlaid(picture, request.segments, height=decoded.height, width=decoded.width)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=request.quality, subsampling=0 if target is None else 2)
    return PictureResult(data=buffer.getvalue())


def overlaid(
    photo: Image.Image, segments: tuple[dict[str, Any], ...], *, height: int, width: int
) -> Image.Image:
    """Tints and outlines segments in a photograph of any size.

    `table/drawing.py` draws masks of full size and names them; here a few pixels are looked up in
    the run lengths of each segment, which for a thumbnail takes a hundredth of the time.

    Args:
        height, width: the size of the segments.
    """
    ids = sampled_ids(
        [row["rle"] for row in segments],
        height=height,
        width=width,
        to_height=photo.height,
        to_width=photo.width,
    )
    colours = np.array(
        [(0, 0, 0)]
        + [segment_colour(row["label"], row["label_id"], row["segment_id"]) for row in segments],
        np.float32,
    )
    pixels = np.asarray(photo.convert("RGB"), np.float32)
    tinted = _OVERLAY * pixels + (1 - _OVERLAY) * colours[ids]
    pixels = np.where((ids > 0)[..., None], tinted, pixels)
    edges = outlines(ids)
    pixels[edges] = colours[ids[edges]]
    return Image.fromarray(pixels.round().astype(np.uint8))


def sampled_ids(
    rles: list[str], *, height: int, width: int, to_height: int, to_width: int
) -> np.ndarray:
    """Returns a map of segments scaled to another size: 1 for the first, 0 where there is none."""
    rows = ((np.arange(to_height) + 0.5) * height / to_height).astype(np.int64)
    columns = ((np.arange(to_width) + 0.5) * width / to_width).astype(np.int64)
    # Run lengths go down the columns, so that these positions ascend.
    positions = (columns[:, None] * height + rows).ravel()
    ids = np.zeros(len(positions), np.int32)
    for number, rle in enumerate(rles, start=1):
        runs = rle_runs(rle, height=height, width=width)
        starts, stops = np.searchsorted(positions, runs).T
        edges = np.bincount(starts, minlength=len(ids) + 1)
        edges -= np.bincount(stops, minlength=len(ids) + 1)
        ids[np.cumsum(edges[:-1]) > 0] = number
    return np.ascontiguousarray(ids.reshape(to_width, to_height).T)


def outlines(ids: np.ndarray) -> np.ndarray:
    """Returns True for pixels of segments with a neighbour of another segment or of none."""
    differs = np.zeros(ids.shape, np.bool_)
    down, across = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    differs[1:] |= down
    differs[:-1] |= down
    differs[:, 1:] |= across
    differs[:, :-1] |= across
    return differs & (ids > 0)


def _fitted(size: tuple[int, int], *, longest_side: int) -> tuple[int, int]:
    """Returns (height, width) scaled down so that the longer side has at most that length."""
    height, width = size
    scale = min(1.0, longest_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))

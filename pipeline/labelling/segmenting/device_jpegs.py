"""Decodes the JPEGs of a block on an actor's device.

With `--decode gpu` readers send the bytes of plain JPEGs (`corpora/device_jpeg.py`) in place of
pixels. What the device cannot decode, or decodes into a picture that may lack its end, is decoded
again by Pillow, which tells the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from pipeline.corpora.decoding import ImageError, decode
from pipeline.labelling.rows import ImageKey, image_key
from pipeline.labelling.segmenting.model_inputs import (
    HeightWidth,
    LoadedImage,
    binary_views,
    images_of,
    without_pixels,
)

_JPEG = "jpeg"
_OF_PIXELS = (
    *("height", "width", "pixels_height", "pixels_width", "model_height", "model_width"),
    "orientation",
)
_FILLED = (127, 128)
"""Grey that decoders put in place of pixels that a file lacks."""
_LAST_PIXELS = 8


@dataclass(frozen=True, kw_only=True)
class _Jpeg:
    """An encoded image of a block."""

    key: ImageKey
    uri: str
    name: str
    size: HeightWidth
    model_size: HeightWidth
    orientation: int
    data: UInt8[np.ndarray, " num_bytes"]


@dataclass(frozen=True, kw_only=True)
class DecodedBlock:
    """The images of a block, all with pixels, and its rows without these."""

    images: list[LoadedImage]
    rows: pa.Table
    """The other columns; with the error of an image that could not be decoded here."""


def decode_block(block: pa.Table, *, device: torch.device) -> DecodedBlock:
    """Returns the images of a block, its JPEGs decoded on the device, on the current stream."""
    jpegs, images, rows = _jpegs_of(block), images_of(block), without_pixels(block)
    errors: dict[ImageKey, ImageError] = {}
    for jpeg, pixels in zip(jpegs, _on_device(jpegs, device=device), strict=True):
        try:
            images.append(_loaded(jpeg, pixels if pixels is not None else _by_pillow(jpeg)))
        except ImageError as error:
            errors[jpeg.key] = error
    return DecodedBlock(images=images, rows=_with_errors(rows, errors) if errors else rows)


def _with_errors(rows: pa.Table, errors: Mapping[ImageKey, ImageError]) -> pa.Table:
    """Returns the rows as readers would have made them, had they decoded the images."""
    changed = []
    for row in rows.to_pylist():
        error = errors.get(image_key(row))
        if error is not None:
            row = dict.fromkeys(_OF_PIXELS) | {
                name: value for name, value in row.items() if name not in _OF_PIXELS
            }
            row |= {"error_class": error.error_class, "error_message": error.message}
        changed.append(row)
    return pa.Table.from_pylist(changed, schema=rows.schema)


def upright(pixels: UInt8[Tensor, "_ _ 3"], *, orientation: int) -> UInt8[Tensor, "_ _ 3"]:
    """Turns and mirrors pixels as their EXIF orientation says, 1 to 8."""
    if orientation in (5, 7):
        pixels = pixels.transpose(0, 1)
    if orientation in (2, 7):
        pixels = pixels.flip(1)
    if orientation in (4, 7):
        pixels = pixels.flip(0)
    quarters = {3: 2, 6: 3, 8: 1}.get(orientation, 0)  # against the clock
    return pixels.rot90(quarters, (0, 1)) if quarters else pixels


def _jpegs_of(block: pa.Table) -> list[_Jpeg]:
    if _JPEG not in block.column_names or block[_JPEG].null_count == block.num_rows:
        return []
    rows = without_pixels(block).to_pylist()
    return [
        _Jpeg(
            key=image_key(row),
            uri=row["uri"],
            name=f"{row['uri']}, member {row['member']}" if row["member"] else row["uri"],
            size=(row["height"], row["width"]),
            model_size=(row["model_height"], row["model_width"]),
            orientation=row["orientation"],
            data=data,
        )
        for row, data in zip(rows, binary_views(block[_JPEG]), strict=True)
        if data is not None
    ]


def _loaded(
    jpeg: _Jpeg, pixels: UInt8[Tensor, "_ _ 3"] | UInt8[np.ndarray, "_ _ 3"]
) -> LoadedImage:
    return LoadedImage(
        key=jpeg.key, uri=jpeg.uri, size=jpeg.size, pixels=pixels, model_size=jpeg.model_size
    )


def _on_device(
    jpegs: Sequence[_Jpeg], *, device: torch.device
) -> list[UInt8[Tensor, "_ _ 3"] | None]:
    """Decodes on the device, for the current stream. None is for Pillow to decode."""
    if not jpegs:
        return []
    if device.type != "cuda":
        return _decoded(jpegs, device=device)
    # torchvision writes on a stream of its own into memory that it takes from the current one, and
    # does not wait for that: the model, which is launched there, may still use the memory. On this
    # stream all work is done whenever memory is taken from it.
    own, current = _stream_of(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(own):
        images = _decoded(jpegs, device=device)
    current.wait_stream(own)
    for image in images:
        if image is not None:
            image.record_stream(current)
    return images


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _decoded(
    jpegs: Sequence[_Jpeg], *, device: torch.device
) -> list[UInt8[Tensor, "_ _ 3"] | None]:
    """Decodes all at once, or one by one where one of them fails; waits until it is done."""
    encoded = [torch.from_numpy(jpeg.data.copy()) for jpeg in jpegs]
    try:
        decoded: list[Tensor | None] = [*_decode(encoded, device=device)]
    except RuntimeError:
        decoded = [_decode_or_none(each, device=device) for each in encoded]
    checked = [
        each if each is not None and _stored_size(jpeg) == tuple(each.shape[1:]) else None
        for jpeg, each in zip(jpegs, decoded, strict=True)
    ]
    turned = [
        None if each is None else upright(each.permute(1, 2, 0), orientation=jpeg.orientation)
        for jpeg, each in zip(jpegs, checked, strict=True)
    ]
    may_lack_pixels = _end_in_grey(checked)
    return [
        None if is_grey and _is_error(jpeg) else image
        for jpeg, image, is_grey in zip(jpegs, turned, may_lack_pixels, strict=True)
    ]


def _decode(encoded: list[Tensor], *, device: torch.device) -> list[UInt8[Tensor, "3 _ _"]]:
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _decode_or_none(encoded: Tensor, *, device: torch.device) -> UInt8[Tensor, "3 _ _"] | None:
    try:
        return _decode([encoded], device=device)[0]
    except RuntimeError:
        return None


def _stored_size(jpeg: _Jpeg) -> HeightWidth:
    height, width = jpeg.size
    return (width, height) if jpeg.orientation >= 5 else (height, width)


def _end_in_grey(images: Sequence[UInt8[Tensor, "3 _ _"] | None]) -> list[bool]:
    """Returns which images end in the grey of missing data; waits for the device once."""
    some = [image for image in images if image is not None]
    if not some:
        return [False] * len(images)
    ends = [image[:, -1, -_LAST_PIXELS:] for image in some]
    lowest, highest = _FILLED
    found = iter(torch.stack([((e >= lowest) & (e <= highest)).all() for e in ends]).tolist())
    return [image is not None and next(found) for image in images]


def _is_error(jpeg: _Jpeg) -> bool:
    try:
        _by_pillow(jpeg)
    except ImageError:
        return True
    return False


def _by_pillow(jpeg: _Jpeg) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = jpeg.size
    decoded = decode(jpeg.data.tobytes(), name=jpeg.name, max_pixels=height * width)
    return np.array(decoded.image)

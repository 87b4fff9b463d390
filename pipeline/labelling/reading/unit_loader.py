"""Loads the images of one unit into blocks of pixels.

Runs in CPU tasks, without torch. Takes one unit's rows of the plan; gives tables with the columns
`BLOCK` to `segmenter.py`, the last of which has the number of the unit's images. Pixels have the
model's size; for actors with GPUs, which resize faster, the size that they were decoded at.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.decoding import (
    Decoded,
    HeightWidth,
    ImageError,
    decode,
    image_size,
    orientation,
)
from pipeline.corpora.device_jpeg import is_for_device
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.labelling.reading.guard import Guard
from pipeline.labelling.reading.limits import memory_limit, time_limit
from pipeline.labelling.reading.shape_order import PlacedImage, Shape, ShapeOrder
from pipeline.labelling.rows import RETRIES, taken_retries
from pipeline.runtime.niceness import lower_priority
from pipeline.runtime.skips import SKIPPED, SkipCounts
from pipeline.runtime.threads import map_ahead
from pipeline.storage import SourceChanged, Storage, StorageFault
from pipeline.table.units import sources_of

BLOCK = pa.schema(
    [
        ("unit_id", pa.string()),
        # image, end (of the unit), fault (of storage), lost (a process), left alone (a GPU) or
        # mistake (in our code)
        ("kind", pa.string()),
        ("position", pa.int64()),  # within the unit; of the end, the number of images
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("etag", pa.string()),
        ("height", pa.int32()),  # of the image; null where it could not be decoded
        ("width", pa.int32()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("pixels", pa.binary()),  # uint8 RGB, row by row, at the size below
        ("pixels_height", pa.int32()),
        ("pixels_width", pa.int32()),
        ("jpeg", pa.binary()),  # in place of pixels, for a device to decode to the size above
        ("orientation", pa.int8()),  # of the JPEG, by its EXIF data
        ("model_height", pa.int32()),  # at the model's input, before padding
        ("model_width", pa.int32()),
        ("bytes_read", pa.int64()),  # encoded bytes of the image
        ("storage_retries", RETRIES),  # of the reader's process; on ends and faults
        ("skipped", SKIPPED),  # in the unit's archives; on ends
    ]
)

_MOST_WITHOUT_PIXELS = 64  # so that images in error leave in time
_READS_AT_ONCE = 16
_READS_AHEAD_FOR_GPUS = 64  # while the images of one shape are decoded, others arrive
_WINDOW_BYTES = 2**28
_SLACK = 0.4
"""Share of a block by which it may grow to its run's end; Ray splits blocks from 1.5 on."""
_MOST_SHRINKING = 4
"""An image of more than so many times the model's pixels is resized where it is decoded."""


@dataclass(frozen=True, kw_only=True)
class UnitLoader:
    """Reads, decodes and resizes the images of one unit; Ray Data calls it on each unit."""

    storage: Storage
    reading: ReadSettings
    processor: MaskFormerImageProcessor
    block_bytes: int
    """Pixels of a block; a block is what travels to an actor at once."""
    is_guarded: bool = False
    """Whether images are decoded in another process, which may crash."""
    quarantined: Mapping[str, Mapping[int, ImageError]] = field(default_factory=dict)
    """By unit and position, the errors of images that are not tried again."""
    for_gpus: bool = False
    """Whether actors have GPUs: images then come by shape, and at the size they are decoded at."""

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        if self.for_gpus:
            lower_priority()
        return _blocks(self._rows(unit), block_bytes=self.block_bytes)

    def _rows(self, unit: pa.Table) -> Iterator[tuple[dict[str, Any], int]]:
        """Yields a row for each image, then one for the unit's end or for the fault before it.

        Each comes with the bytes of pixels to come of the same shape.
        """
        unit_id = unit["unit_id"][0].as_py()
        skipped = SkipCounts()
        num_images = 0
        try:
            with self._decoder() as decoded:
                for each in self._in_order(self._placed(unit, skipped=skipped)):
                    row = {"unit_id": unit_id, "kind": "image", "position": each.position}
                    yield row | decoded(each.image), each.bytes_to_come
                    num_images += 1
        except (StorageFault, SourceChanged) as fault:
            # The unit stays undone and the run says so; its other units go on.
            yield fault_row(fault, unit_id=unit_id), 0
            return
        end = {
            "unit_id": unit_id,
            "kind": "end",
            "position": num_images,
            "storage_retries": taken_retries(),
            "skipped": skipped.to_rows(),
        }
        yield end, 0

    def _placed(self, unit: pa.Table, *, skipped: SkipCounts) -> Iterator[PlacedImage]:
        """Yields the images with their positions; those in quarantine with their errors."""
        quarantined = self.quarantined.get(unit["unit_id"][0].as_py(), {})
        images = self._images(sources_of(unit), skipped=skipped)
        for position, image in enumerate(images):
            if error := quarantined.get(position):
                message = f"{image.name}: {error.message}"
                image = replace(image, error=ImageError(error.error_class, message))
            yield PlacedImage(position=position, image=image)

    def _in_order(self, images: Iterator[PlacedImage]) -> Iterator[PlacedImage]:
        """Puts images of one shape together for a GPU; alone in their blocks they stay in order."""
        if not self.for_gpus or self.is_guarded:
            return images
        shape_of = functools.partial(_shape_of, reading=self.reading, processor=self.processor)
        return ShapeOrder(
            shape_of=time_limit(self.reading.image_seconds)(shape_of),
            run_bytes=self.block_bytes,
            window_bytes=_WINDOW_BYTES,
        )(images)

    @contextmanager
    def _decoder(self) -> Iterator[Callable[[EncodedImage], dict[str, Any]]]:
        """Gives `image_row` with limits of time and memory, in this process or another."""
        decode = functools.partial(
            image_row,
            reading=self.reading,
            processor=self.processor,
            is_resized=not self.for_gpus,
        )
        seconds, memory_bytes = self.reading.image_seconds, self.reading.image_memory_bytes
        if self.is_guarded:
            with Guard(decode, seconds=seconds, memory_bytes=memory_bytes) as guard:
                yield functools.partial(_guarded, decode=decode, guard=guard)
        else:
            waiting_bytes = _WINDOW_BYTES if self.for_gpus else 0
            with memory_limit(memory_bytes + waiting_bytes):
                yield time_limit(seconds)(decode)

    def _images(self, sources: Iterable[Source], *, skipped: SkipCounts) -> Iterator[EncodedImage]:
        """Yields the images of all sources in order: files fetched ahead, archives streamed."""

        def read(source: Source) -> Iterable[EncodedImage]:
            return read_source(source, storage=self.storage, settings=self.reading, skipped=skipped)

        def fetch(source: Source) -> Iterable[EncodedImage]:
            return list(read(source)) if source.kind == "file" else read(source)

        ahead = _READS_AHEAD_FOR_GPUS if self.for_gpus else None
        for images in map_ahead(fetch, sources, num_threads=_READS_AT_ONCE, ahead=ahead):
            yield from images


def block_in_place(unit_id: str, message: str, *, kind: str = "fault") -> pa.Table:
    """Returns the block in place of a unit's images, which are not read."""
    return _block([{"unit_id": unit_id, "kind": kind, "error_message": message}])


def blocks(rows: Iterable[dict[str, Any]], *, block_bytes: int) -> Iterator[pa.Table]:
    """Groups rows into tables of about `block_bytes` bytes of pixels."""
    return _blocks(((row, 0) for row in rows), block_bytes=block_bytes)


def _blocks(rows: Iterable[tuple[dict[str, Any], int]], *, block_bytes: int) -> Iterator[pa.Table]:
    """Groups rows; a block that is full goes on while little more of its last shape is to come."""
    held: list[dict[str, Any]] = []
    num_bytes = num_without_pixels = 0
    for row, bytes_to_come in rows:
        held.append(row)
        num_pixel_bytes = 3 * (row.get("pixels_height") or 0) * (row.get("pixels_width") or 0)
        num_bytes += num_pixel_bytes
        num_without_pixels += not num_pixel_bytes
        is_near_end = 0 < bytes_to_come <= (1 + _SLACK) * block_bytes - num_bytes
        is_full = num_bytes >= block_bytes and not is_near_end
        if is_full or num_without_pixels >= _MOST_WITHOUT_PIXELS:
            yield _block(held)
            held, num_bytes, num_without_pixels = [], 0, 0
    if held:
        yield _block(held)


def image_row(
    image: EncodedImage,
    *,
    reading: ReadSettings,
    processor: MaskFormerImageProcessor,
    is_resized: bool = True,
) -> dict[str, Any]:
    """Decodes an image. Returns its columns of `BLOCK`: its pixels, or its error.

    Args:
        is_resized: whether the pixels have the model's size; else the size that they were decoded
            at, unless that is much more.
    """
    row: dict[str, Any] = {
        "image_id": image.image_id,
        "uri": image.uri,
        "member": image.member,
        "etag": image.etag,
        "bytes_read": len(image.data or b""),
        "pixels": None,
    }
    try:
        if image.error is not None:
            raise image.error
        assert image.data is not None
        if reading.decode == "gpu" and not is_resized and is_for_device(image.data):
            return {**row, **_encoded(image, reading=reading, processor=processor)}
        decoded = _decoded(image, reading=reading, processor=processor)
        return {**row, **_pixels(decoded, processor=processor, is_resized=is_resized)}
    except ImageError as error:
        return {**row, "error_class": error.error_class, "error_message": error.message}
    except MemoryError:
        message = f"{image.name}: no memory to resize it; see image_memory_bytes"
        return {**row, "error_class": "OutOfMemory", "error_message": message}


def pixels_of(row: Mapping[str, Any]) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a row of `BLOCK`, at the model's size."""
    shape = (row["pixels_height"], row["pixels_width"], 3)
    return np.frombuffer(row["pixels"], np.uint8).reshape(shape)


def _guarded(
    image: EncodedImage, *, decode: Callable[[EncodedImage], dict[str, Any]], guard: Guard
) -> dict[str, Any]:
    if image.error is None:
        try:
            return guard(image)
        except ImageError as error:
            image = replace(image, error=error)
    return decode(image)


def fault_row(fault: StorageFault | SourceChanged, *, unit_id: str | None) -> dict[str, Any]:
    """Returns the row of a storage fault, which stands in place of all further images."""
    message = f"{type(fault).__name__}: {fault}"
    return {
        "unit_id": unit_id,
        "kind": "fault",
        "error_message": message,
        "storage_retries": taken_retries(),
    }


def _decoded(
    image: EncodedImage, *, reading: ReadSettings, processor: MaskFormerImageProcessor
) -> Decoded:
    return decode(
        image.data or b"",
        name=image.name,
        mode="fast" if reading.decode == "fast" else "exact",
        target_size=processor.resized_size,
        max_pixels=reading.max_image_pixels,
    )


def _encoded(
    image: EncodedImage, *, reading: ReadSettings, processor: MaskFormerImageProcessor
) -> dict[str, Any]:
    """Returns the columns of a JPEG that a device decodes."""
    assert image.data is not None
    bounds: dict[str, Any] = {"name": image.name, "max_pixels": reading.max_image_pixels}
    height, width = image_size(image.data, **bounds)
    model_size = processor.resized_size((height, width))
    return {
        "height": height,
        "width": width,
        "jpeg": image.data,
        "orientation": orientation(image.data, **bounds),
        "pixels_height": height,
        "pixels_width": width,
        "model_height": model_size[0],
        "model_width": model_size[1],
    }


def _pixels(
    decoded: Decoded, *, processor: MaskFormerImageProcessor, is_resized: bool
) -> dict[str, Any]:
    size = (decoded.height, decoded.width)
    model_size = processor.resized_size(size)
    pixels_size = (decoded.image.height, decoded.image.width)
    if is_resized or not _is_left_to_the_device(pixels_size, model_size, processor=processor):
        pixels_size = model_size
        pixels = processor.resize(decoded.image, original_size=size).tobytes()
    else:
        pixels = decoded.image.tobytes()
    return {
        "height": size[0],
        "width": size[1],
        "pixels": pixels,
        "pixels_height": pixels_size[0],
        "pixels_width": pixels_size[1],
        "model_height": model_size[0],
        "model_width": model_size[1],
    }


def _is_left_to_the_device(
    size: HeightWidth, model_size: HeightWidth, *, processor: MaskFormerImageProcessor
) -> bool:
    """Returns whether pixels travel at the size that they were decoded at."""
    is_near = math.prod(size) <= _MOST_SHRINKING * math.prod(model_size)
    return is_near and processor.can_resize_on_device


def _shape_of(
    image: EncodedImage, *, reading: ReadSettings, processor: MaskFormerImageProcessor
) -> Shape | None:
    """Reads an image's header; returns None where decoding will find an error."""
    if image.error is not None:
        return None
    try:
        size = image_size(image.data or b"", name=image.name, max_pixels=reading.max_image_pixels)
    except ImageError:
        return None
    model_size = processor.resized_size(size)
    is_left = _is_left_to_the_device(size, model_size, processor=processor)
    is_jpeg = reading.decode == "gpu" and is_for_device(image.data or b"")
    is_decoded = is_jpeg or (is_left and reading.decode != "fast")
    return Shape(
        size=size,
        padded_size=processor.padded_size(model_size),
        num_bytes=3 * math.prod(size if is_decoded else model_size),
    )


def _block(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=BLOCK)

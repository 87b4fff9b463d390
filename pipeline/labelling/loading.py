"""Loads the images of one unit into blocks of pixels at the model's size.

Runs in CPU tasks, without torch. Takes one unit's rows of the plan; gives tables with the columns
`BLOCK` to `segmenting.py`, the last of which has the number of the unit's images.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.labelling.guard import Guard
from pipeline.labelling.limits import memory_limit, time_limit
from pipeline.labelling.rows import RETRIES, taken_retries
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
        ("model_height", pa.int32()),  # at the model's input, before padding
        ("model_width", pa.int32()),
        ("bytes_read", pa.int64()),  # encoded bytes of the image
        ("storage_retries", RETRIES),  # of the reader's process; on ends and faults
        ("skipped", SKIPPED),  # in the unit's archives; on ends
    ]
)

_MOST_ROWS = 256  # so that images in error, which have no pixels, leave in time
_READS_AT_ONCE = 16


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

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        return blocks(self._rows(unit), block_bytes=self.block_bytes)

    def _rows(self, unit: pa.Table) -> Iterator[dict[str, Any]]:
        """Yields a row for each image, then one for the unit's end or for the fault before it."""
        unit_id = unit["unit_id"][0].as_py()
        quarantined = self.quarantined.get(unit_id, {})
        skipped = SkipCounts()
        position = 0
        try:
            with self._decoder() as decoded:
                for image in self._images(sources_of(unit), skipped=skipped):
                    if error := quarantined.get(position):
                        message = f"{image.name}: {error.message}"
                        image = replace(image, error=ImageError(error.error_class, message))
                    row = decoded(image)
                    yield {"unit_id": unit_id, "kind": "image", "position": position, **row}
                    position += 1
        except (StorageFault, SourceChanged) as fault:
            # The unit stays undone and the run says so; its other units go on.
            yield fault_row(fault, unit_id=unit_id)
            return
        yield {
            "unit_id": unit_id,
            "kind": "end",
            "position": position,
            "storage_retries": taken_retries(),
            "skipped": skipped.to_rows(),
        }

    @contextmanager
    def _decoder(self) -> Iterator[Callable[[EncodedImage], dict[str, Any]]]:
        """Gives `image_row` with limits of time and memory, in this process or another."""
        decode = functools.partial(image_row, reading=self.reading, processor=self.processor)
        seconds, memory_bytes = self.reading.image_seconds, self.reading.image_memory_bytes
        if self.is_guarded:
            with Guard(decode, seconds=seconds, memory_bytes=memory_bytes) as guard:
                yield functools.partial(_guarded, decode=decode, guard=guard)
        else:
            with memory_limit(memory_bytes):
                yield time_limit(seconds)(decode)

    def _images(self, sources: Iterable[Source], *, skipped: SkipCounts) -> Iterator[EncodedImage]:
        """Yields the images of all sources in order: files fetched ahead, archives streamed."""

        def read(source: Source) -> Iterable[EncodedImage]:
            return read_source(source, storage=self.storage, settings=self.reading, skipped=skipped)

        def fetch(source: Source) -> Iterable[EncodedImage]:
            return list(read(source)) if source.kind == "file" else read(source)

        for images in map_ahead(fetch, sources, num_threads=_READS_AT_ONCE):
            yield from images


def block_in_place(unit_id: str, message: str, *, kind: str = "fault") -> pa.Table:
    """Returns the block in place of a unit's images, which are not read."""
    return _block([{"unit_id": unit_id, "kind": kind, "error_message": message}])


def blocks(rows: Iterable[dict[str, Any]], *, block_bytes: int) -> Iterator[pa.Table]:
    """Groups rows into tables of about `block_bytes` bytes of pixels."""
    held: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows:
        held.append(row)
        num_bytes += len(row.get("pixels") or b"")
        if num_bytes >= block_bytes or len(held) >= _MOST_ROWS:
            yield _block(held)
            held, num_bytes = [], 0
    if held:
        yield _block(held)


def image_row(
    image: EncodedImage, *, reading: ReadSettings, processor: MaskFormerImageProcessor
) -> dict[str, Any]:
    """Decodes an image. Returns its columns of `BLOCK`: its pixels, or its error."""
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
        return {**row, **_pixels(image, reading=reading, processor=processor)}
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


def _pixels(
    image: EncodedImage, *, reading: ReadSettings, processor: MaskFormerImageProcessor
) -> dict[str, Any]:
    decoded = decode(
        image.data or b"",
        name=image.name,
        mode=reading.decode,
        target_size=processor.resized_size,
        max_pixels=reading.max_image_pixels,
    )
    pixels = processor.resize(decoded.image, original_size=(decoded.height, decoded.width))
    return {
        "height": decoded.height,
        "width": decoded.width,
        "pixels": pixels.tobytes(),
        "pixels_height": pixels.shape[0],
        "pixels_width": pixels.shape[1],
        "model_height": pixels.shape[0],
        "model_width": pixels.shape[1],
    }


def _block(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=BLOCK)

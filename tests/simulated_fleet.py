"""A labelling run without images and without a model: only what moves and commits rows is real.

Readers draw blocks of black thumbnails instead of reading a corpus; segmenters wait as long as
their simulated GPUs would take, give every image the same segments and use no CPU meanwhile. Ray,
the driver, staging and commits are the product's own.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from free_segmenter import rows_without_model
from specs import panoptic_spec

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.workers import LoadUnit
from pipeline.labelling.reading.unit_loader import BLOCK
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.storage import Storage
from pipeline.table.store import TableStore
from pipeline.table.units import Unit, unit_id

SPEC = panoptic_spec("road", "sky", "tree", "car")
_SIDE = 32
_PROCESSOR = MaskFormerImageProcessor(size={"height": _SIDE, "width": _SIDE})


@dataclass(frozen=True, kw_only=True)
class FleetJob(LabellingJob):
    """A job whose images are drawn, and whose segmenters wait."""

    images_per_second: float
    """Of the GPUs that one actor stands for, together; 0 for segmenters that do not wait."""

    @property
    def segmenters(self) -> "WaitingFactory":
        return WaitingFactory(images_per_second=self.images_per_second)

    def loader(self, machines: Machines, *, isolation: object) -> LoadUnit:
        return DrawnLoader(block_images=machines.block_images).__call__


def fleet_job(
    table: str, *, actors: ActorSettings, images_per_second: float, run_id: str = "run"
) -> FleetJob:
    """Returns a job on a table that it creates."""
    store = TableStore(table, Storage())
    store.create(SPEC)
    return FleetJob(
        table=store,
        spec=SPEC,
        run_id=run_id,
        reading=ReadSettings(),
        segmenting=SegmentSettings(),
        actors=actors,
        processor=_PROCESSOR,
        model_files={},
        images_per_second=images_per_second,
    )


def drawn_units(count: int, *, unit_images: int, first: int = 0) -> list[Unit]:
    """Returns units of so many images each; the names say which images they are."""
    sources = [
        Source(
            uri=f"/drawn/{number:06}.tar",
            name=f"{number:06}.tar",
            kind="tar",
            etag="drawn",
            size=unit_images * 100_000,
            num_images=unit_images,
        )
        for number in range(first, first + count)
    ]
    return [Unit(unit_id=unit_id([each], spec=SPEC), sources=[each]) for each in sources]


def image_ids(units: list[Unit]) -> list[str]:
    """Returns the ids of all images of the units, sorted."""
    return sorted(
        f"{source.name}/{position}"
        for unit in units
        for source in unit.sources
        for position in range(source.num_images or 0)
    )


@dataclass(frozen=True, kw_only=True)
class DrawnLoader:
    """Yields the blocks of a unit, with the end in the last one."""

    block_images: int

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        name, own_id = unit["name"][0].as_py(), unit["unit_id"][0].as_py()
        num_images = unit["num_images"][0].as_py()
        for start in range(0, num_images, self.block_images):
            stop = min(start + self.block_images, num_images)
            block = _block(own_id, name, start, stop)
            if stop == num_images:
                end = {"unit_id": own_id, "kind": "end", "position": num_images, "skipped": []}
                block = pa.concat_tables([block, pa.Table.from_pylist([end], BLOCK)])
            yield block


def _block(unit: str, name: str, start: int, stop: int) -> pa.Table:
    count = stop - start
    pixels = pa.py_buffer(bytes(count * 3 * _SIDE**2))
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * (3 * _SIDE**2))
    columns = {
        "unit_id": pa.repeat(unit, count),
        "kind": pa.repeat("image", count),
        "position": pa.array(range(start, stop), pa.int64()),
        "image_id": pa.array([f"{name}/{position}" for position in range(start, stop)]),
        "uri": pa.repeat(name, count),
        "etag": pa.repeat("drawn", count),
        "pixels": pa.BinaryArray.from_buffers(pa.binary(), count, [None, offsets, pixels]),
        "bytes_read": pa.repeat(pa.scalar(100_000, pa.int64()), count),
    }
    sides = [f.name for f in BLOCK if f.type == pa.int32()]
    columns |= {name: pa.repeat(pa.scalar(_SIDE, pa.int32()), count) for name in sides}
    return pa.table(
        [columns.get(field.name, pa.nulls(count, field.type)) for field in BLOCK], schema=BLOCK
    )


@dataclass(frozen=True, kw_only=True)
class WaitingFactory:
    """Builds a `WaitingSegmenter`."""

    images_per_second: float

    def __call__(self, model_files: object, *, num_threads: int | None) -> "WaitingSegmenter":
        return WaitingSegmenter(images_per_second=self.images_per_second)


class WaitingSegmenter:
    """Gives each image ten segments, after the time that a GPU would take."""

    def __init__(self, *, images_per_second: float) -> None:
        self._rate = images_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def __call__(self, block: pa.Table) -> pa.Table:
        is_image = pc.equal(block["kind"], "image")
        if self._rate:
            with self._lock:  # one block at a time is on the GPU
                begins = max(time.monotonic(), self._free_at)
                self._free_at = begins + pc.sum(is_image).as_py() / self._rate
                ends = self._free_at
            time.sleep(max(0.0, ends - time.monotonic()))
        return rows_without_model(block)

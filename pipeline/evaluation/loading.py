"""Loads labelled images by number into blocks of pixels, in CPU tasks without torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.dataset import LabelledImages
from pipeline.labelling.reading.unit_loader import blocks, fault_row, image_row
from pipeline.runtime.threads import map_ahead
from pipeline.storage import SourceChanged, StorageFault

INDICES = pa.schema([("index", pa.int64())])
"""Schema of a task: its images, by their numbers in the data set."""

_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class ImageLoader:
    """Reads, decodes and resizes the images of a task; Ray Data calls it on each task."""

    dataset: LabelledImages
    processor: MaskFormerImageProcessor
    block_bytes: int

    def __call__(self, indices: pa.Table) -> Iterator[pa.Table]:
        return blocks(self._rows(indices["index"].to_pylist()), block_bytes=self.block_bytes)

    def _rows(self, indices: list[int]) -> Iterator[dict[str, Any]]:
        images = map_ahead(self.dataset.image, indices, num_threads=_READS_AT_ONCE)
        try:
            for index, image in zip(indices, images, strict=True):
                row = image_row(image, reading=self.dataset.reading, processor=self.processor)
                yield {"unit_id": "", "kind": "image", "position": index, **row}
        except (StorageFault, SourceChanged) as fault:
            yield fault_row(fault, unit_id="")

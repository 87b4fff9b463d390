"""Makes the maps of segment ids that panoptic formats hold, as PNGs in red, green and blue.

The id of a pixel is R + 256 G + 65536 B, 0 is void. They are never grey: readers of COCO's format
take a grey PNG for something else.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32
from PIL import Image

from pipeline.datasets.id_maps import count_ids
from pipeline.exchange.records import ExportSegment, ImageExport

HIDDEN = "segments that lie below others of their image, partly or wholly: a map has one per pixel"


@dataclass(frozen=True, kw_only=True)
class PanopticMap:
    """The map of an image, and the segments that have pixels in it."""

    ids: Int32[np.ndarray, "height width"]
    segments: Sequence[ExportSegment]
    """With the areas and boxes that they have in the map."""

    def png(self) -> bytes:
        """Encodes the map."""
        channels = np.stack([self.ids >> shift & 255 for shift in (0, 8, 16)], -1)
        return as_png(Image.fromarray(channels.astype(np.uint8), "RGB"))


def panoptic_map(image: ImageExport, *, losses: Counter[str]) -> PanopticMap:
    """Paints the segments of an image; counts those that others hide."""
    ids = image.id_map()
    ids_of = [segment.segment_id for segment in image.segments]
    areas = count_ids(ids, at_least=max(ids_of, default=0) + 1)
    kept = []
    for segment in image.segments:
        area = int(areas[segment.segment_id])
        if area != segment.area:
            losses[HIDDEN] += 1
            if not area:
                continue
            segment = segment._replace(area=area, box_xywh=_box(ids == segment.segment_id))
        kept.append(segment)
    return PanopticMap(ids=ids, segments=kept)


def as_png(image: Image.Image) -> bytes:
    """Encodes an image, the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1

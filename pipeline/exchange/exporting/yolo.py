"""Writes YOLO's segmentation format: one polygon in a line of a text for each segment.

    OUT/images/train/NAME.jpg, OUT/labels/train/NAME.txt, OUT/data.yaml

Read by ultralytics, supervision and datumaro. A polygon has neither parts nor holes: parts are
joined by thin bridges, holes are filled, and both are counted.
"""

import numpy as np
import yaml

from maskformer import decode_rle
from pipeline.exchange.exporting.polygons import outline
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportSegment, ImageExport

PARTS = "segments of several parts, which are joined by thin bridges"
HOLES = "segments with holes, which are filled"
_INSIDE = 0.25
"""Added to pixels, so that readers that cut a coordinate and readers that round it find them."""


class Yolo:
    """Writes one text for each image, also an empty one."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan

    def add(self, image: ImageExport) -> None:
        output = self._plan.output
        lines = [self._line(segment, image) for segment in image.segments if segment.area]
        output.write_photo(f"images/{image.split}/{image.name}", image)
        text = "".join(lines).encode()
        output.write_later(f"labels/{image.split}/{image.stem}.txt", lambda: text)

    def finish(self) -> None:
        names = [label.name for label in self._plan.labels]
        splits = {split: f"images/{split}" for split in self._plan.splits}
        first = next(iter(splits.values()))
        content = {
            # ultralytics needs both; without a split of that name the other stands for it.
            "train": splits.get("train", first),
            "val": splits.get("val", first),
            **{name: place for name, place in splits.items() if name not in ("train", "val")},
            "names": dict(enumerate(names)),
        }
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        self._plan.output.write("data.yaml", text.encode())

    def _line(self, segment: ExportSegment, image: ImageExport) -> str:
        mask = decode_rle(segment.rle, height=image.height, width=image.width)
        x, y, w, h = segment.box_xywh
        found = outline(mask[y : y + h, x : x + w])
        self._plan.losses.update([PARTS] if found.num_parts > 1 else [])
        self._plan.losses.update([HOLES] if found.has_holes else [])
        origin, size = np.array([x, y]) + _INSIDE, np.array([image.width, image.height])
        points = (found.points_xy + origin) / size
        numbers = " ".join(f"{value:.6f}" for value in points.ravel().tolist())
        return f"{segment.label_index} {numbers}\n"

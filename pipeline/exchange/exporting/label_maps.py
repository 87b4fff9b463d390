"""Writes label maps: the label of each pixel, as grey PNGs beside the photographs, as in ADE20K.

    OUT/images/NAME.jpg, OUT/annotations/NAME.png, OUT/labels.json; with splits below OUT/train/

Read by Pillow, by all trainers of semantic segmentation, and by our own `maskformer train`. Values
count from 0 in the order of labels.json; 255 is void, or 65535 where there are more labels.
"""

import numpy as np
from PIL import Image

from pipeline.exchange.exporting.id_maps import as_png
from pipeline.exchange.exporting.label_names import labels_json
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ImageExport
from pipeline.exchange.settings import DEFAULT_SPLIT

OBJECTS = "objects of one label that a map of labels does not tell apart"


class LabelMaps:
    """Writes one map for each image."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._void = 255 if len(plan.labels) <= 255 else 65535
        if len(plan.labels) > self._void:
            raise ValueError(
                f"a label map holds {self._void} labels, the table has {len(plan.labels)}; choose "
                "some by --labels"
            )

    def add(self, image: ImageExport) -> None:
        output, folder = self._plan.output, _folder(image.split)
        labels = [segment.label_index for segment in image.segments]
        self._plan.losses.update({OBJECTS: n} if (n := len(labels) - len({*labels})) else {})
        painted = image.painted([label + 1 for label in labels])
        values = np.where(painted == 0, self._void, painted - 1)
        dtype = np.uint8 if self._void == 255 else np.uint16
        picture = Image.fromarray(values.astype(dtype))
        output.write_photo(f"{folder}images/{image.name}", image)
        output.write_later(f"{folder}annotations/{image.stem}.png", lambda: as_png(picture))

    def finish(self) -> None:
        names = labels_json(self._plan.labels, ignore_index=self._void)
        for split in self._plan.splits:
            self._plan.output.write(f"{_folder(split)}labels.json", names)


def _folder(split: str) -> str:
    return "" if split == DEFAULT_SPLIT else f"{split}/"

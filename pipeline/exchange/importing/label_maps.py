"""Reads a folder of label maps: a PNG of labels for each image, and labels.json with their names.

A map of labels does not tell objects of one label apart. So the segments of the table are the
guide: each keeps the pixels that still have its label. Pixels with a new label go to the only
segment of that label, or make one new segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from maskformer import painted, rle_runs
from pipeline.datasets.label_names import KnownNames, LabelNames, label_names
from pipeline.datasets.maps import MAP_ENDINGS
from pipeline.datasets.settings import DatasetSettings
from pipeline.exchange.importing.annotations import FileImage, Region, UnreadableFile
from pipeline.reviews.revision import ReviewedSegment
from pipeline.storage import Storage

_FOLDERS = ("annotations", "labels", "masks", "maps", "SegmentationClass", "segmentation")


@dataclass(frozen=True, kw_only=True)
class LabelMapReader:
    """Lists the maps below a folder: in `annotations/` or another usual folder, if there is one."""

    folder: str
    storage: Storage
    decides_overlaps = True
    labels = None

    def __iter__(self) -> Iterator[FileImage | Region]:
        files = sorted(
            file.uri.removeprefix(f"{self.folder}/") for file in self.storage.files(self.folder)
        )
        maps = [name for name in files if name.lower().endswith(MAP_ENDINGS)]
        usual = [name for name in maps if name.partition("/")[0] in _FOLDERS]
        if not maps:
            raise UnreadableFile(f"{self.folder} holds no map, no file that ends with .png")
        for name in usual or maps:
            key = f"{self.folder}/{name}"
            yield FileImage(key=key, name=name.partition("/")[2] if usual else name)
            yield Region(image=key, label="", kind="label_map", payload=key.encode(), name=name)

    def names(self) -> LabelNames:
        """Reads labels.json.

        Raises:
            ValueError: it is not there, or no such file.
        """
        return label_names(
            DatasetSettings(dataset=self.folder),
            folder=self.folder,
            storage=self.storage,
            known=KnownNames(),
        )


def guided_map(
    label_of_pixel: Integer[np.ndarray, "height width"],
    names: Mapping[int, str],
    before: Sequence[ReviewedSegment],
) -> tuple[Integer[np.ndarray, "height width"], dict[int, str]]:
    """Returns a map of segments that has the labels of a label map, and the label of each segment.

    Args:
        label_of_pixel: numbers of `names`; 0 is void.
        before: the segments of the image; where they overlap, the later one lies on top.
    """
    height, width = label_of_pixel.shape
    runs = [rle_runs(each.rle, height=height, width=width) for each in before]
    segments = painted(runs, range(1, len(before) + 1), height=height, width=width).astype(np.int32)
    numbers = {name: number for number, name in names.items()}
    label_of_segment = np.array([0, *(numbers.get(each.label, -1) for each in before)])
    ids = np.where(label_of_segment[segments] == label_of_pixel, segments, 0)
    labels = {number: each.label for number, each in enumerate(before, 1)}
    is_new = (ids == 0) & (label_of_pixel > 0)
    for label in np.unique(label_of_pixel[is_new]).tolist():
        of_label = [number for number, name in labels.items() if name == names[label]]
        target = of_label[0] if len(of_label) == 1 else max(labels, default=0) + 1
        labels[target] = names[label]
        ids[is_new & (label_of_pixel == label)] = target
    return ids, labels

"""What the published models were trained to tell apart: label names, things and stuff.

The names stand in `labels/*.json`, in the order of the model's classes, as Detectron2's metadata
and the datasets themselves have them.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset's labels; the file with them is read when they are first asked for."""

    name: str
    title: str
    ignore_index: int
    """The id of pixels that are no label's, in the maps that the models were trained on."""
    zero_is_ignored: bool = False
    """Whether files of this dataset count labels from 1 and have 0 for ignored pixels."""

    @property
    def labels(self) -> tuple[str, ...]:
        return _read(self.name)[0]

    @property
    def things(self) -> frozenset[int]:
        """The labels whose instances are told apart. ADE20K's full set names none."""
        return _read(self.name)[1]

    @property
    def stuff(self) -> frozenset[int]:
        return frozenset(range(len(self.labels))) - self.things


@cache
def _read(name: str) -> tuple[tuple[str, ...], frozenset[int]]:
    file = files(__package__) / "labels" / f"{name}.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    return tuple(values["labels"]), frozenset(values["things"])


ADE20K = Dataset(name="ade20k", title="ADE20K", ignore_index=255, zero_is_ignored=True)
# 847 labels do not fit a byte, and so its maps have 16 bits.
ADE20K_FULL = Dataset(name="ade20k_full", title="ADE20K full", ignore_index=65535)
CITYSCAPES = Dataset(name="cityscapes", title="Cityscapes", ignore_index=255)
COCO_PANOPTIC = Dataset(name="coco_panoptic", title="COCO panoptic", ignore_index=255)
COCO_STUFF_10K = Dataset(name="coco_stuff_10k", title="COCO-Stuff 10k", ignore_index=255)
MAPILLARY_VISTAS = Dataset(name="mapillary_vistas", title="Mapillary Vistas", ignore_index=65)

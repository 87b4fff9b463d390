"""Writes tar shards of WebDataset: a photograph, its map of segment ids and a JSON, side by side.

    OUT/train-000000.tar with KEY.jpg, KEY.seg.png, KEY.json; OUT/labels.json

Read by `webdataset` and by our own `maskformer train`. A key has no dot in its last part: there
WebDataset's extension begins.
"""

import tarfile

from pipeline.exchange.exporting.coco_files import json_line, segments_info
from pipeline.exchange.exporting.id_maps import panoptic_map
from pipeline.exchange.exporting.label_names import labels_json
from pipeline.exchange.exporting.output import GrowingFile
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ImageExport

_SHARD_IMAGES = 1000
_SHARD_BYTES = 2**29
"""A shard ends with the image that reaches so many bytes."""
_END = tarfile.NUL * 2 * tarfile.BLOCKSIZE


class WebDataset:
    """Writes one sample for each image."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._open: dict[str, _Shard] = {}
        self._numbers: dict[str, int] = {}

    def add(self, image: ImageExport) -> None:
        assert image.photo is not None, "the format needs photographs"
        painted = panoptic_map(image, losses=self._plan.losses)
        described = [
            {
                **{k: v for k, v in info.items() if k != "category_id"},
                "label_id": segment.label_index,
                "label": segment.label,
                "isthing": int(segment.is_thing),
            }
            for info, segment in zip(segments_info(painted.segments), painted.segments, strict=True)
        ]
        sample = {
            "image_id": image.image_id,
            "height": image.height,
            "width": image.width,
            "segments_info": described,
        }
        shard = self._shard(image.split)
        shard.add(image.name, image.photo)
        shard.add(f"{image.stem}.seg.png", painted.png())
        shard.add(f"{image.stem}.json", json_line(sample).encode())
        shard.num_images += 1

    def finish(self) -> None:
        for shard in self._open.values():
            shard.finish()
        self._plan.output.write("labels.json", labels_json(self._plan.labels))

    def _shard(self, split: str) -> "_Shard":
        shard = self._open.get(split)
        most = self._plan.shard_images or _SHARD_IMAGES
        if shard is not None and (shard.num_images >= most or shard.file.num_bytes >= _SHARD_BYTES):
            shard.finish()
            shard = None
        if shard is None:
            number = self._numbers.get(split, 0)
            self._numbers[split] = number + 1
            file = self._plan.output.grow(f"{split}-{number:06}.tar")
            shard = self._open[split] = _Shard(file)
        return shard


class _Shard:
    """A tar that grows; its headers hold no time and no user."""

    def __init__(self, file: GrowingFile) -> None:
        self.file = file
        self.num_images = 0

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self.file.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self.file.write(data)
        self.file.write(tarfile.NUL * (-len(data) % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        self.file.write(_END)
        self.file.finish()

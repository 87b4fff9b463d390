"""Writes COCO's JSONs entry by entry: one for each split, or several of a bounded size.

Importers read such a JSON whole, so that 50,000 images are the most of one by default. The lists of
images and annotations grow in temporary files and are joined at the end.

    OUT/annotations/instances_train.json     OUT/images/train/NAME.jpg
    OUT/annotations/instances_train-0002.json, OUT/images/train-0002/ where there are several
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from pipeline.corpora.image_parts import source_kind
from pipeline.exchange.exporting.output import GrowingFile, Output
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportSegment, ImageExport

_SHARD_IMAGES = 50_000
_HELD_CHARACTERS = 2**18


class CocoFiles:
    """The JSONs of an export, one of each split open at a time."""

    def __init__(self, plan: ExportPlan, *, task: Literal["instances", "panoptic"]) -> None:
        self._plan, self._task = plan, task
        self._open: dict[str, _CocoFile] = {}
        self._numbers: dict[str, int] = {}

    def file_of(self, image: ImageExport) -> "_CocoFile":
        """Returns the JSON that an image belongs to, and counts the image in it."""
        most = self._plan.shard_images or _SHARD_IMAGES
        file = self._open.get(image.split)
        if file is not None and file.num_images == most:
            file.finish()
            file = None
        if file is None:
            number = self._numbers[image.split] = self._numbers.get(image.split, 0) + 1
            has_several = self._plan.num_images[image.split] > most
            subset = f"{image.split}-{number:04}" if has_several else image.split
            file = self._open[image.split] = _CocoFile(self._plan, task=self._task, subset=subset)
        file.num_images += 1
        return file

    def finish(self) -> None:
        """Writes what is open."""
        for file in self._open.values():
            file.finish()


class _CocoFile:
    """A JSON that grows."""

    def __init__(self, plan: ExportPlan, *, task: str, subset: str) -> None:
        self._plan, self._output = plan, plan.output
        self.subset = subset
        self.name = f"annotations/{task}_{subset}"
        """Without its ending."""
        self.num_images = 0
        self._is_panoptic = task == "panoptic"
        self._images = _Entries(plan.output)
        self._annotations = _Entries(plan.output)

    def photo_name(self, image: ImageExport) -> str:
        """Returns the path of a photograph in the export."""
        return f"images/{self.subset}/{image.name}"

    def add_image(self, image: ImageExport) -> None:
        """Adds the entry of an image, and what `maskformer import` finds its state by."""
        entry: dict[str, Any] = {
            "id": image.number,
            "file_name": image.name,
            "height": image.height,
            "width": image.width,
            "table_image_id": image.image_id,
            "table_etag": image.etag,
            "table_revision": image.revision,
        }
        if self._plan.licence is not None:
            entry["license"] = 1
        is_file = source_kind(image.uri) == "file"
        if is_file and image.uri.startswith(("http://", "https://", "s3://")):
            entry["coco_url"] = image.uri
        self._images.add(json_line(entry))

    def add_annotation(self, text: str) -> None:
        """Adds an annotation, as JSON."""
        self._annotations.add(text)

    def finish(self) -> None:
        """Writes the JSON."""
        file = self._output.grow(f"{self.name}.json")
        head = json.dumps(self._head(), ensure_ascii=False)
        file.write(f'{head[:-1]}, "images": [\n'.encode())
        self._images.move_to(file)
        file.write(b'\n], "annotations": [\n')
        self._annotations.move_to(file)
        file.write(b"\n]}\n")
        file.finish()

    def _head(self) -> Mapping[str, Any]:
        licence = self._plan.licence
        return {
            "info": {"description": f"segments of {self._plan.table}", "version": "1"},
            "licenses": [] if licence is None else [{"id": 1, "name": licence, "url": ""}],
            "categories": [
                {
                    "id": category_id(label.index),
                    "name": label.name,
                    "supercategory": "",
                    "isthing": int(label.is_thing),
                    "color": list(label.colour),
                }
                for label in self._plan.labels
            ],
        }


class _Entries:
    """The entries of a list, in a temporary file."""

    def __init__(self, output: Output) -> None:
        self._file: GrowingFile = output.grow("")
        self._held: list[str] = []
        self._held_characters = 0

    def add(self, text: str) -> None:
        self._held.append(text)
        self._held_characters += len(text)
        if self._held_characters >= _HELD_CHARACTERS:
            self._write()

    def move_to(self, file: GrowingFile) -> None:
        self._write()
        for piece in self._file.pieces():
            file.write(piece)

    def _write(self) -> None:
        if self._held:
            separator = ",\n" if self._file.num_bytes else ""
            self._file.write((separator + ",\n".join(self._held)).encode())
        self._held, self._held_characters = [], 0


def category_id(label_index: int) -> int:
    """Returns the id of a category; from 1, since importers take 0 for no category."""
    return label_index + 1


def json_line(value: Any) -> str:
    """Returns a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def rle_as_json(rle: str) -> str:
    """Returns run lengths as JSON: of their characters only the backslash needs another one."""
    text = rle.replace("\\", "\\\\")
    return f'"{text}"'


def shortest(score: float) -> float:
    """Returns a score of 32 bits with as few digits as tell it from others."""
    return float(str(np.float32(score)))


def segments_info(segments: Iterable[ExportSegment]) -> list[dict[str, Any]]:
    """Describes segments of a panoptic map; the ids are those in the map."""
    return [
        {
            "id": segment.segment_id,
            "category_id": category_id(segment.label_index),
            "area": segment.area,
            "bbox": list(segment.box_xywh),
            "iscrowd": 0,
            **({} if segment.score is None else {"score": shortest(segment.score)}),
            **({} if segment.origin == "model" else {"origin": segment.origin}),
        }
        for segment in segments
    ]

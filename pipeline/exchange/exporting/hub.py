"""Writes Parquet files as the hub's `datasets` reads them: photographs, maps and segments in rows.

    OUT/data/train-00000.parquet, OUT/README.md with `dataset_info`, OUT/labels.json

`datasets.load_dataset(OUT)` gives images and ClassLabel names, and the folder can be pushed to the
hub as it is. Our own `maskformer train` reads it too.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.exchange.exporting.coco_files import shortest
from pipeline.exchange.exporting.id_maps import panoptic_map
from pipeline.exchange.exporting.label_names import labels_json
from pipeline.exchange.exporting.output import GrowingFile
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportSegment, ImageExport
from pipeline.exchange.settings import DEFAULT_SPLIT

_SHARD_IMAGES = 1000
_SHARD_BYTES = 2**29
_GROUP_IMAGES = 100
"""Rows of a row group, as the hub's viewer likes them."""
_GROUP_BYTES = 2**25

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SEGMENT: Mapping[str, pa.DataType] = {
    "id": pa.int32(),
    "category_id": pa.int64(),
    "isthing": pa.bool_(),
    "area": pa.int64(),
    "bbox": pa.list_(pa.int32()),
    "iscrowd": pa.bool_(),
    "score": pa.float32(),
    "origin": pa.string(),
}
_COLUMNS: Mapping[str, pa.DataType] = {
    "image_id": pa.string(),
    "image": _IMAGE,
    "annotation": _IMAGE,
    "height": pa.int32(),
    "width": pa.int32(),
    "segments_info": pa.list_(pa.struct([*_SEGMENT.items()])),
}
_SCALARS = ["image_id", "height", "width"]
_NAMES = {
    pa.int32(): "int32", pa.int64(): "int64", pa.bool_(): "bool", pa.float32(): "float32",
    pa.string(): "string",
}  # fmt: skip


class Hub:
    """Writes one row for each image."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        names = [label.name for label in plan.labels]
        features = {name: _feature(name, kind, names) for name, kind in _COLUMNS.items()}
        described = {"info": {"features": features}}
        self._schema = pa.schema([*_COLUMNS.items()], {"huggingface": json.dumps(described)})
        self._open: dict[str, _Shard] = {}
        self._numbers: Counter[str] = Counter()
        self._num_images: Counter[str] = Counter()
        self._num_bytes: Counter[str] = Counter()

    def add(self, image: ImageExport) -> None:
        assert image.photo is not None, "the format needs photographs"
        painted = panoptic_map(image, losses=self._plan.losses)
        png = painted.png()
        row = {
            "image_id": image.image_id,
            "image": {"bytes": image.photo, "path": image.name.replace("/", "_")},
            "annotation": {"bytes": png, "path": f"{image.stem.replace('/', '_')}.png"},
            "height": image.height,
            "width": image.width,
            "segments_info": [*map(_segment, painted.segments)],
        }
        split = split_name(image.split)
        self._shard(split).add(row, num_bytes=len(image.photo) + len(png))
        self._num_images[split] += 1
        self._num_bytes[split] += len(image.photo) + len(png)

    def finish(self) -> None:
        for shard in self._open.values():
            shard.finish()
        output = self._plan.output
        output.write("labels.json", labels_json(self._plan.labels))
        output.write("README.md", self._card())

    def _shard(self, split: str) -> "_Shard":
        shard = self._open.get(split)
        if shard is not None and shard.is_full(self._plan.shard_images or _SHARD_IMAGES):
            shard.finish()
            shard = None
        if shard is None:
            name = f"data/{split}-{self._numbers[split]:05}.parquet"
            self._numbers[split] += 1
            shard = self._open[split] = _Shard(self._plan.output.grow(name), self._schema)
        return shard

    def _card(self) -> bytes:
        """Returns the page of the data set, with what `datasets` reads from its head."""
        names = [label.name for label in self._plan.labels]
        splits = [split for split in map(split_name, self._plan.splits) if self._num_images[split]]
        head = {
            **({} if self._plan.licence is None else {"license": self._plan.licence}),
            "task_categories": ["image-segmentation"],
            "dataset_info": {
                "features": [_card_feature(*each, names) for each in _COLUMNS.items()],
                "splits": [
                    {
                        "name": split,
                        "num_bytes": self._num_bytes[split],
                        "num_examples": self._num_images[split],
                    }
                    for split in splits
                ],
            },
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [
                        {"split": split, "path": f"data/{split}-*.parquet"} for split in splits
                    ],
                }
            ],
        }
        text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
        model = "\n".join(
            f"- {name}: {_inline(value)}" for name, value in sorted(self._plan.model.items())
        )
        return (_CARD.format(head=text, table=_inline(self._plan.table), model=model)).encode()


class _Shard:
    """A Parquet file that grows."""

    def __init__(self, file: GrowingFile, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._writer = pq.ParquetWriter(
            file.file, schema, compression="zstd", use_dictionary=False, write_statistics=_SCALARS
        )
        self._rows: list[dict[str, Any]] = []
        self._held_bytes = 0
        self._num_images = self._num_bytes = 0

    def add(self, row: dict[str, Any], *, num_bytes: int) -> None:
        self._rows.append(row)
        self._held_bytes += num_bytes
        self._num_images += 1
        self._num_bytes += num_bytes
        if len(self._rows) >= _GROUP_IMAGES or self._held_bytes >= _GROUP_BYTES:
            self._write()

    def is_full(self, most_images: int) -> bool:
        return self._num_images >= most_images or self._num_bytes >= _SHARD_BYTES

    def finish(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()
        self._file.finish()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._held_bytes = [], 0


def split_name(split: str) -> str:
    """Returns the hub's name of a split: readers expect `train` where there is one only."""
    return "train" if split == DEFAULT_SPLIT else split


def _segment(segment: ExportSegment) -> dict[str, Any]:
    return {
        "id": segment.segment_id,
        "category_id": segment.label_index,
        "isthing": segment.is_thing,
        "area": segment.area,
        "bbox": list(segment.box_xywh),
        "iscrowd": False,
        "score": None if segment.score is None else shortest(segment.score),
        "origin": segment.origin,
    }


def _feature(name: str, kind: pa.DataType, names: list[str]) -> Any:
    """Describes a column as the metadata of the files do."""
    if name == "category_id":
        return {"names": names, "_type": "ClassLabel"}
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        item = kind.value_type
        if pa.types.is_struct(item):
            return [{each.name: _feature(each.name, each.type, names) for each in item}]
        return {"feature": {"dtype": _NAMES[item], "_type": "Value"}, "_type": "Sequence"}
    return {"dtype": _NAMES[kind], "_type": "Value"}


def _card_feature(name: str, kind: pa.DataType, names: list[str]) -> dict[str, Any]:
    """Describes a column as the head of a README does."""
    if name == "category_id":
        labels = {str(index): label for index, label in enumerate(names)}
        return {"name": name, "dtype": {"class_label": {"names": labels}}}
    if kind == _IMAGE:
        return {"name": name, "dtype": "image"}
    if pa.types.is_list(kind):
        item = kind.value_type
        if pa.types.is_struct(item):
            return {
                "name": name,
                "list": [_card_feature(each.name, each.type, names) for each in item],
            }
        return {"name": name, "sequence": _NAMES[item]}
    return {"name": name, "dtype": _NAMES[kind]}


def _inline(value: object) -> str:
    """Returns a value in the font of code, in one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{' '.join(text.replace('`', '').split())}`"


_CARD = """---
{head}---

# Segments of {table}

Panoptic segments of photographs. Of each row `annotation` is a map of segment ids, in which a
pixel's id is R + 256 G + 65536 B and 0 is void; `segments_info` describes the ids.

    from datasets import load_dataset

    row = load_dataset("PATH_OR_NAME", split="train")[0]

The segments come from a model, with these settings:

{model}

Segments whose `origin` is `human` were changed or drawn by a person.
"""

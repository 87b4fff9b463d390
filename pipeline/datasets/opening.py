"""Opens the data set that a user names, of any kind."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from pipeline.corpora.corpus import kind_of
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.coco_instances import open_coco_instances
from pipeline.datasets.coco_json import CocoFile
from pipeline.datasets.coco_panoptic import open_coco_panoptic
from pipeline.datasets.dataset import Kind, LabelledImages
from pipeline.datasets.exports import exported_json, refuse_unfinished
from pipeline.datasets.label_maps import open_label_maps
from pipeline.datasets.label_names import KnownNames
from pipeline.datasets.reviewed_images import Revisions
from pipeline.datasets.rows import open_rows
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.shards import open_shards
from pipeline.datasets.tables import open_table
from pipeline.datasets.target import LabelError
from pipeline.storage import Storage


def open_labelled(
    settings: DatasetSettings,
    *,
    storage: Storage | None = None,
    reading: ReadSettings | None = None,
    model_labels: Sequence[str] | None = None,
    reduced_labels: Sequence[str] | None = None,
    revisions: Revisions | None = None,
) -> LabelledImages:
    """Opens a data set: lists its images, and reads no image or map yet.

    Args:
        revisions: the images of a segment table to take, and their revisions, as they were chosen
            before; None to choose them now.
        model_labels: label names for label maps that come without names.
        reduced_labels: label names of a model whose image processor has `do_reduce_labels`; label
            maps with the same names are read by its rule, unless they or the settings say
            otherwise.

    Raises:
        ValueError: there is no data set, it lacks something, or a setting has no effect on it.
        StorageFault: the storage failed.
    """
    storage, reading = storage or Storage().with_environment(), reading or ReadSettings()
    refuse_unfinished(settings.dataset, storage=storage)
    kind = settings.dataset_kind
    if kind is None or kind in _COCO:
        settings, notes = _with_exported_json(settings, storage=storage)
    else:
        notes = ()
    if kind is None:
        kind = _found_kind(settings.dataset, storage=storage)
    if kind in _COCO:
        settings.refuse("reviewed", "reviews", because="COCO's JSON")
        dataset = _open_coco(settings, storage=storage, reading=reading)
        return replace(dataset, notes=(*notes, *dataset.notes))
    settings.refuse("skip_unusable", because=f"data of the kind {kind}")
    if kind != "segment_table":
        settings.refuse("reviewed", "reviews", because=f"data of the kind {kind}")
    if kind == "segment_table":
        return open_table(settings, storage=storage, reading=reading, revisions=revisions)
    known = KnownNames(model=model_labels, reduced=reduced_labels)
    return _WITHOUT_NAMES[kind](settings, storage=storage, reading=reading, known=known)


_COCO = {"coco_panoptic": open_coco_panoptic, "coco_instances": open_coco_instances}
_WITHOUT_NAMES = {"label_maps": open_label_maps, "webdataset": open_shards, "parquet": open_rows}


def _with_exported_json(
    settings: DatasetSettings, *, storage: Storage
) -> tuple[DatasetSettings, tuple[str, ...]]:
    """Returns the settings with COCO's JSON as data set where a folder holds one, and a note."""
    json_uri = exported_json(settings.dataset, storage=storage)
    if json_uri is None:
        return settings, ()
    return replace(settings, dataset=json_uri), (
        f"the labels of {settings.dataset} are in {json_uri}",
    )


def _open_coco(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    file = CocoFile.read(storage.absolute(settings.dataset), storage=storage)
    kind = settings.dataset_kind or _kind_of_annotations(file)
    if kind != "coco_instances":
        settings.refuse("skip_unusable", because="COCO's panoptic maps")
    return _COCO[kind](settings, file=file, storage=storage, reading=reading)


def _found_kind(dataset: str, *, storage: Storage) -> Kind:
    root = storage.absolute(dataset)
    if root.lower().endswith(".json"):
        return "coco_instances"  # or panoptic, as reading it tells
    if "*" in root.rpartition("/")[2]:
        pattern_kind = {"tar": "webdataset", "parquet": "parquet"}.get(kind_of(root) or "")
        if pattern_kind is None:
            raise LabelError(f"a pattern must be of tars or Parquet files, as train-*.tar: {root}")
        return cast("Kind", pattern_kind)
    found = False
    for file in storage.files(root):
        found = True
        name = file.uri.removeprefix(f"{root}/")
        if name == "_table.json":
            return "segment_table"
        if name.startswith(("_", ".")):
            continue
        kind = kind_of(file.uri)
        if kind == "tar":
            return "webdataset"
        if kind == "parquet":
            return "parquet"
        if kind == "file":
            return "label_maps"
    if not found:
        raise LabelError(f"there is nothing at {root}; name labelled images by --dataset")
    raise LabelError(
        f"{root} holds no images, tars, Parquet files or segment table; name one by --dataset"
    )


def _kind_of_annotations(file: CocoFile) -> Kind:
    """Tells the kind by the first annotation with a telling field; exporters may omit fields."""
    for text in file.entries.annotations:
        annotation = json.loads(bytes(text))
        if isinstance(annotation, dict) and annotation.get("segments_info") is not None:
            return "coco_panoptic"
        if isinstance(annotation, dict) and annotation.keys() & {"segmentation", "bbox"}:
            return "coco_instances"
    raise file.wrong(
        ("annotations", 0),
        rule="must have segments_info, as COCO's panoptic ones, or segmentation, as its instances",
    )

"""Exports read back by this project: `maskformer train` and `evaluate` learn and judge by them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from exported_tables import LABELS, Drawn, draw, exported
from pycocotools import mask as coco

from maskformer import decode_rle
from pipeline.corpora.decoding import decode
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import Target


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"))


def loaded(folder: Path | str) -> LabelledImages:
    return open_labelled(DatasetSettings(dataset=str(folder)))


def masks_of(target: Target, names: tuple[str, ...]) -> list[list[str]]:
    """Label and run lengths of each segment."""
    found = []
    for segment in target.segments:
        mask = target.ids == segment.id
        if segment.rle is not None:
            mask = decode_rle(segment.rle, height=target.size[0], width=target.size[1])
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        found.append([names[segment.label_id], encoded])
    return sorted(found)


def by_content(dataset: LabelledImages, names: Mapping[str, str]) -> dict[str, list[list[str]]]:
    """Segments by the table's image_id; `names` leads from the data set's ids to those."""
    found = {}
    for index in range(len(dataset)):
        image, target = dataset.image(index), dataset.target(index)
        assert image.data is not None, image.error
        photo = decode(image.data, name=image.name, max_pixels=10**6)
        assert (photo.height, photo.width) == target.size
        found[names[image.image_id]] = masks_of(target, dataset.labels.names)
    return found


def drawn_labels(drawn: Drawn) -> dict[str, list[list[str]]]:
    return {name: sorted(each[:2] for each in rows) for name, rows in drawn.truth.items()}


@pytest.mark.parametrize("task", ["panoptic", "instances"])
def test_coco(drawn: Drawn, tmp_path: Path, task: str) -> None:
    exported(drawn, tmp_path, f"coco_{task}")
    dataset = loaded(tmp_path)
    assert dataset.kind == f"coco_{task}"
    assert dataset.labels.names == LABELS
    assert dataset.labels.things == {1, 2, 4}
    content = json.loads((tmp_path / f"annotations/{task}_default.json").read_bytes())
    names = {each["file_name"]: each["table_image_id"] for each in content["images"]}
    assert by_content(dataset, names) == drawn_labels(drawn)


def test_coco_with_splits_is_a_data_set_by_its_json(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path, "coco_panoptic", splits=("train=0.6", "val=0.4"))
    parts = [loaded(tmp_path / f"annotations/panoptic_{part}.json") for part in ("train", "val")]
    assert sum(map(len, parts)) == len(drawn.truth)
    assert all(part[0].image.data for part in parts)


def test_rows_of_the_hub(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path, "hf")
    dataset = loaded(tmp_path)
    assert (dataset.kind, dataset.truths) == ("parquet", "segments")
    assert dataset.labels.names == LABELS
    assert dataset.labels.things == {1, 2, 4}
    ids = [*drawn.truth]
    found = [masks_of(dataset.target(index), dataset.labels.names) for index in range(len(dataset))]
    assert sorted(found) == sorted(drawn_labels(drawn)[image_id] for image_id in ids)


def test_shards(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path, "webdataset", shard_images=4)
    dataset = loaded(tmp_path)
    assert (dataset.kind, dataset.truths) == ("webdataset", "segments")
    assert dataset.labels.things == {1, 2, 4}
    found = [masks_of(dataset.target(index), dataset.labels.names) for index in range(len(dataset))]
    assert sorted(found) == sorted(drawn_labels(drawn).values())
    assert dataset.image(0).data


def test_label_maps(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "one", "label_maps")
    exported(drawn, tmp_path / "two", "label_maps", splits=("train=0.6", "val=0.4"))
    dataset = loaded(tmp_path / "one")
    assert (dataset.kind, dataset.truths) == ("label_maps", "labels")
    assert dataset.labels.names == LABELS
    assert len(dataset) == len(drawn.truth)
    parts = [loaded(tmp_path / "two" / part) for part in ("train", "val")]
    assert sum(map(len, parts)) == len(dataset)
    counts = np.zeros(len(LABELS), int)
    for index in range(len(dataset)):
        values = dataset.target(index).label_map(ignore_index=255)
        counts += np.bincount(values[values != 255], minlength=len(LABELS))
    areas = dict.fromkeys(LABELS, 0)
    for rows in drawn.truth.values():
        for label, _, area in rows:
            areas[label] += area
    assert counts.tolist() == [*areas.values()]


def test_many_labels_take_sixteen_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import exported_tables
    from specs import panoptic_spec

    names = tuple(f"label {number}" for number in range(300))
    monkeypatch.setattr(exported_tables, "SPEC", panoptic_spec(*names))
    drawn = draw(tmp_path, files={"plain.jpg": exported_tables.photo(1)})
    exported(drawn, tmp_path / "out", "label_maps")
    dataset = loaded(tmp_path / "out")
    values = dataset.target(0).label_map(ignore_index=65535)
    assert dataset.labels.names == names
    assert {*np.unique(values).tolist()} == {0, 1, 2, 3, 4, 65535}

"""The same scenes in every format give the same targets, on a disk and in a bucket."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from as_files import encode_image, encode_table
from corpora import put
from drawn_labels import (
    IGNORED,
    LABELS,
    THINGS,
    Scene,
    coco_instances,
    coco_panoptic,
    label_maps,
    panoptic_rows,
    panoptic_shards,
    parquet_rows,
    scenes,
    segments_info,
    shards,
    write_table,
)
from s3 import S3Server

from maskformer import decode_rle
from pipeline.datasets.checking import check_images
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.storage import Storage, join

FORMATS = {
    "label_maps": (label_maps, ""),
    "webdataset": (shards, ""),
    "parquet": (parquet_rows, ""),
    "coco_panoptic": (coco_panoptic, "annotations/panoptic_val.json"),
}
WITH_SEGMENTS = {
    "coco_panoptic": (coco_panoptic, "annotations/panoptic_val.json"),
    "webdataset": (panoptic_shards, ""),
    "parquet": (panoptic_rows, ""),
}


def open_at(root: str, name: str = "", **settings: object) -> LabelledImages:
    dataset = join(root, name) if name else root
    return open_labelled(DatasetSettings(dataset=dataset, **settings))


def check_labels(dataset: LabelledImages, drawn: list[Scene]) -> None:
    assert dataset.labels.names == LABELS
    assert dataset.labels.things == set(THINGS)
    assert len(dataset) == len(drawn)
    for index, scene in enumerate(drawn):
        labelled = dataset[index]
        expected_id = f"/{index}" if dataset.kind == "parquet" else scene.name
        assert expected_id in labelled.image.image_id
        assert labelled.image.data == scene.jpeg
        found = labelled.target.label_map(ignore_index=IGNORED)
        np.testing.assert_array_equal(found, scene.label_map)


def check_segments(dataset: LabelledImages, drawn: list[Scene]) -> None:
    for index, scene in enumerate(drawn):
        target = dataset.target(index)
        found = [(segment.label_id, target.ids == segment.id) for segment in target.segments]
        expected = [(label, scene.ids == key) for key, label in scene.label_of.items()]
        assert [label for label, _ in found] == [label for label, _ in expected]
        for (_, mask), (_, wanted) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(target.ids == 0, scene.ids == 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_tells_the_label_of_each_pixel(kind: str, tmp_path: Path) -> None:
    write, name = FORMATS[kind]
    dataset = open_at(put(tmp_path, write(scenes())), name)
    assert dataset.kind == kind
    check_labels(dataset, scenes())


@pytest.mark.parametrize("kind", WITH_SEGMENTS)
def test_formats_with_segments_tell_objects_apart(kind: str, tmp_path: Path) -> None:
    write, name = WITH_SEGMENTS[kind]
    dataset = open_at(put(tmp_path, write(scenes())), name)
    assert (dataset.kind, dataset.truths) == (kind, "segments")
    check_labels(dataset, scenes())
    check_segments(dataset, scenes())


def test_a_segment_table_is_a_data_set(tmp_path: Path) -> None:
    dataset = open_at(write_table(tmp_path, scenes()))
    assert (dataset.kind, dataset.truths) == ("segment_table", "segments")
    check_labels(dataset, scenes())
    check_segments(dataset, scenes())


def test_coco_instances_keep_whole_masks(tmp_path: Path) -> None:
    dataset = open_at(put(tmp_path, coco_instances(scenes())), "annotations/instances_val.json")
    assert (dataset.kind, dataset.truths) == ("coco_instances", "instances")
    assert dataset.labels.names == ("tree", "car")
    for index, scene in enumerate(scenes()):
        target = dataset.target(index)
        assert [segment.label_id for segment in target.segments] == [0, 1, 1]
        for segment, key in zip(target.segments, (3, 4, 5), strict=True):
            mask = decode_rle(segment.rle, height=36, width=48)
            np.testing.assert_array_equal(mask, scene.ids == key)
            assert segment.area == mask.sum()


@pytest.mark.parametrize("kind", FORMATS)
def test_data_sets_are_read_from_a_bucket(kind: str, s3: S3Server, s3_storage: Storage) -> None:
    write, name = FORMATS[kind]
    root = f"s3://test/labelled-{kind}"
    for path, data in write(scenes()).items():
        s3_storage.write(join(root, path), data)
    dataset = open_labelled(
        DatasetSettings(dataset=join(root, name) if name else root), storage=s3_storage
    )
    check_labels(dataset, scenes())


@pytest.mark.parametrize("kind", FORMATS)
def test_any_image_comes_alone_after_pickling(kind: str, tmp_path: Path) -> None:
    write, name = FORMATS[kind]
    drawn = scenes(5)
    dataset = pickle.loads(pickle.dumps(open_at(put(tmp_path, write(drawn)), name)))
    for index in (4, 0, 3):
        found = dataset.target(index).label_map(ignore_index=IGNORED)
        np.testing.assert_array_equal(found, drawn[index].label_map)
    with pytest.raises(IndexError, match="5 images"):
        dataset.target(5)


def test_a_census_counts_images_and_pixels_of_each_label(tmp_path: Path) -> None:
    drawn = scenes()
    census = check_images(open_at(put(tmp_path, shards(drawn))))
    pixels = np.bincount(
        np.concatenate([scene.label_map[scene.label_map != IGNORED] for scene in drawn])
    )
    assert (census.num_images, census.num_empty) == (3, 0)
    assert census.images_of_label == dict.fromkeys(range(4), 3)
    assert census.pixels_of_label == dict(enumerate(pixels.tolist()))


def test_the_development_data_is_read(shared: Path) -> None:
    camvid = open_at(str(shared / "data" / "camvid" / "val-0000.tar"))
    assert (len(camvid), len(camvid.labels.names)) == (101, 11)
    assert check_images(camvid, indices=range(3)).num_images == 3
    coco = open_at(str(shared / "data" / "coco_panoptic_sample" / "panoptic_examples.json"))
    assert (len(coco), len(coco.labels.names), len(coco.labels.things)) == (2, 133, 80)
    assert check_images(coco).num_empty == 0


def test_a_pattern_names_some_tars_of_a_folder_with_the_labels_beside_them(tmp_path: Path):
    drawn = scenes(4)
    put(tmp_path, shards(drawn))
    dataset = open_at(str(tmp_path), "part-*.tar")
    check_labels(dataset, drawn)
    check_labels(open_at(str(tmp_path), "*-1.tar"), drawn[2:])
    with pytest.raises(ValueError, match="a pattern must be of tars"):
        open_at(str(tmp_path), "part-*")


CATEGORY_IDS = {str(7 + 3 * label): name for label, name in enumerate(LABELS)}


def by_category(drawn: list[Scene], *, shift: int, scale: int) -> list[list[dict[str, int]]]:
    return [
        [
            {"id": each["id"], "category_id": shift + scale * each["label_id"], "iscrowd": 0}
            for each in segments_info(scene)
        ]
        for scene in drawn
    ]


def rows_of_the_hub(drawn: list[Scene], said: list, **features: object) -> dict[str, bytes]:
    """A Parquet file with the features that the hub's `datasets` keeps in it."""
    table = pa.table(
        {
            "image": [{"bytes": scene.jpeg, "path": None} for scene in drawn],
            "label": [
                {"bytes": encode_image(scene.ids.astype(np.uint8)), "path": ""} for scene in drawn
            ],
            "segments_info": said,
        }
    )
    kept = {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
    return {"rows.parquet": encode_table(table.replace_schema_metadata(kept))}


@pytest.mark.parametrize("is_transposed", [False, True])
def test_rows_of_the_hub_have_their_names_with_them(is_transposed: bool, tmp_path: Path) -> None:
    names = {"_type": "ClassLabel", "names": list(LABELS)}
    said: list = by_category(scenes(), shift=0, scale=1)
    feature: object = [{"id": {"dtype": "int32", "_type": "Value"}, "category_id": names}]
    if is_transposed:
        said = [{key: [each[key] for each in one] for key in one[0]} for one in said]
        feature = {"feature": feature[0], "_type": "Sequence"}  # type: ignore[index]
    dataset = open_at(put(tmp_path, rows_of_the_hub(scenes(), said, segments_info=feature)))
    assert dataset.labels.names == LABELS
    check_segments(dataset, scenes())


def test_category_ids_are_the_values_in_labels_json(tmp_path: Path) -> None:
    said = by_category(scenes(), shift=7, scale=3)
    files = rows_of_the_hub(scenes(), said) | {"labels.json": json.dumps(CATEGORY_IDS).encode()}
    check_segments(open_at(put(tmp_path, files)), scenes())
    put(tmp_path, {"labels.json": json.dumps(dict(list(CATEGORY_IDS.items())[1:])).encode()})
    with pytest.raises(ValueError, match=r"rows\.parquet, row 0: segment 1 has label 7"):
        open_at(str(tmp_path)).target(0)


@pytest.mark.parametrize("is_struct", [False, True])
def test_rows_whose_map_is_null_can_be_left_out_and_are_counted(
    is_struct: bool, tmp_path: Path
) -> None:
    drawn = scenes(3)
    put(tmp_path, parquet_rows(drawn))
    [path] = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    [name] = [each for each in table.column_names if each.startswith("label")]
    maps = table[name].to_pylist()
    maps[1] = None
    cells = [{"bytes": each, "path": None} for each in maps] if is_struct else maps
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if is_struct else pa.binary()
    column = table.column_names.index(name)
    pq.write_table(table.set_column(column, name, pa.array(cells, kind)), path, row_group_size=2)
    with pytest.raises(LabelError, match=r"row 1: there are no bytes in the column label"):
        check_images(open_at(str(tmp_path)))
    dataset = open_at(str(tmp_path), skip_unlabelled=True)
    check_images(dataset)
    assert len(dataset) == 2
    np.testing.assert_array_equal(
        dataset.target(1).label_map(ignore_index=IGNORED), drawn[2].label_map
    )
    assert any("1 photograph without a label map is left out" in note for note in dataset.notes)

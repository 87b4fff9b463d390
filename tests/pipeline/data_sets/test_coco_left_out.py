"""What exporters write beside the rules of COCO is read, left out and counted, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_jsons import SECOND, instances_json, open_coco, panoptic_json, refusal_of, with_value

from pipeline.datasets.checking import check_images
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError


def label_ids_of(dataset: LabelledImages, index: int) -> list[int]:
    return [segment.label_id for segment in dataset.target(index).segments]


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace('"info": {}', '"info": {"x": NaN, "y": [-Infinity]}').encode(),
        lambda text: text.replace('"iscrowd": 0', '"iscrowd": false').encode(),
        lambda text: text.replace('"iscrowd": 0', '"iscrowd": null, "area": null').encode(),
        lambda text: (
            text.replace('"image_id": 1,', '"image_id": 1.0,')
            .replace('"height": 24', '"height": 24.0')
            .encode()
        ),
        lambda text: (
            text.replace('"image_id": 1,', '"image_id": "a/1",')
            .replace('"id": 1, "file', '"id": "a/1", "file')
            .encode()
        ),
        lambda text: text.replace("[4, 4, 12, 4,", "[-1.5, 4, 33, 4,").encode(),
    ],
)
def test_what_exporters_write_beside_the_rule_is_read(
    written: Callable[[str], bytes], tmp_path: Path
) -> None:
    dataset = open_coco(tmp_path, written(json.dumps(instances_json())))
    assert check_images(dataset).images_of_label == {0: 2, 1: 2}
    assert dataset.notes == ()
    assert not any(segment.is_crowd for segment in dataset.target(0).segments)


def test_a_category_that_is_called_as_another_and_is_not_used_is_left_out(tmp_path: Path) -> None:
    said = instances_json()
    said["categories"].insert(0, {"id": 0, "name": "car", "supercategory": "none"})
    dataset = open_coco(tmp_path, said)
    assert dataset.labels.names == ("car", "person")
    assert label_ids_of(dataset, 0) == [0, 1]
    assert dataset.notes == (
        "category 0 is left out: it is unused, and another is called 'car' too",
    )


UNUSABLE = (None, [], [[]], [4, 4, 8, 8], [[4, 4, 8, 8]], [[4, 4, 4, 12, 4, 20]], ...)


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_an_annotation_without_a_usable_segmentation_is_an_error_or_left_out_and_named(
    unusable: Any, tmp_path: Path
) -> None:
    said = with_value(instances_json(), "annotations", 1, "segmentation", to=unusable)
    text = refusal_of(tmp_path, said)
    assert text.startswith(f"annotations[1].segmentation {SECOND} must ")
    assert text.endswith(
        "; 1 of 4 annotations has no usable segmentation: correct it, or leave such annotations "
        "out by --skip_unusable"
    )
    dataset = open_coco(tmp_path, said, skip_unusable=True)
    shown = "nothing" if unusable is ... else json.dumps(unusable)
    assert dataset.notes == (
        "1 of 4 annotations has no usable segmentation and is left out: annotation 4 of image "
        f"1.jpg ({shown})",
    )
    assert (label_ids_of(dataset, 0), label_ids_of(dataset, 1)) == ([0], [0, 1])


def test_many_unusable_annotations_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    said = instances_json()
    said["annotations"] += [
        said["annotations"][3] | {"id": n, "segmentation": []} for n in range(7)
    ]
    assert "; 7 of 11 annotations have no usable segmentation: correct them" in refusal_of(
        tmp_path, said
    )
    [note] = open_coco(tmp_path, said, skip_unusable=True).notes
    assert note.startswith("7 of 11 annotations have no usable segmentation and are left out: ")
    assert note.endswith("annotation 2 of image 2.jpg ([]) and 4 more")


def test_a_json_without_any_usable_segmentation_is_refused(tmp_path: Path) -> None:
    said = instances_json()
    for annotation in said["annotations"]:
        annotation["segmentation"] = []
    text = refusal_of(tmp_path, said, skip_unusable=True)
    assert text.endswith("4 of 4 annotations have no usable segmentation: correct them")


def test_what_is_wrong_beside_the_segmentation_is_not_skipped(tmp_path: Path) -> None:
    said = with_value(instances_json(), "annotations", 1, "iscrowd", to="0")
    assert "must be the number 0 or 1" in refusal_of(tmp_path, said, skip_unusable=True)


def test_skipping_has_no_effect_on_maps_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="skip_unusable has no effect on COCO's panoptic maps"):
        open_coco(tmp_path, panoptic_json(), skip_unusable=True)
    with pytest.raises(
        ValueError, match="skip_unusable has no effect on data of the kind webdataset"
    ):
        open_labelled(
            DatasetSettings(dataset="x.tar", dataset_kind="webdataset", skip_unusable=True)
        )


def test_images_without_an_annotation_are_counted_in_panoptic_data(tmp_path: Path) -> None:
    said = panoptic_json()
    del said["annotations"][1]
    dataset = open_coco(tmp_path, said)
    assert len(dataset) == 1
    assert dataset.notes == ("1 of 2 images has no annotation and is left out",)


def test_a_size_that_is_not_the_photographs_is_named_before_masks_are_made(tmp_path: Path) -> None:
    said = instances_json()
    said["images"][0] |= {"height": 12_000, "width": 14_000}
    with pytest.raises(LabelError, match="24 x 32 pixels upright and its labels 12000 x 14000"):
        check_images(open_coco(tmp_path, said))

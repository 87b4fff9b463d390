"""A COCO JSON is a data set, or one line: the place, whose it is, what must hold, what came."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import put
from drawn_labels import encode_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets.checking import check_images
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

HEIGHT, WIDTH = 24, 32
PHOTO = encode_image(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG")
SQUARE = [[4, 4, 12, 4, 12, 12, 4, 12]]
Json = dict[str, Any]


def instances_json() -> Json:
    """Two photographs with two objects each, as exporters write them."""
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH}
            for number in (1, 2)
        ],
        "annotations": [
            {
                "id": 2 * image + category,
                "image_id": image,
                "category_id": category,
                "segmentation": [[x, 4, x + 8, 4, x + 8, 12, x, 12]],
                "area": 64.0,
                "bbox": [x, 4, 8, 8],
                "iscrowd": 0,
            }
            for image in (1, 2)
            for category, x in ((1, 4), (2, 18))
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
    }


def panoptic_json() -> Json:
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [
            {
                "image_id": number,
                "file_name": f"{number}.png",
                "segments_info": [{"id": 7, "category_id": 1, "iscrowd": 0}],
            }
            for number in (1, 2)
        ],
        "categories": [
            {"id": 1, "name": "car", "isthing": 1},
            {"id": 5, "name": "road", "isthing": 0},
        ],
    }


def open_coco(folder: Path, said: Json | bytes, **options: Any) -> LabelledImages:
    ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ids[4:12, 4:12, 0] = 7
    files = {f"images/{number}.jpg": PHOTO for number in (1, 2)}
    files |= {f"data/{number}.png": encode_image(ids) for number in (1, 2)}
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    put(folder, {**files, "data.json": data})
    return open_labelled(DatasetSettings(dataset=str(folder / "data.json"), **options))


def refusal_of(folder: Path, said: Json | bytes, **options: Any) -> str:
    with pytest.raises(LabelError) as caught:
        open_coco(folder, said, **options)
    text = str(caught.value)
    assert text.startswith(f"{folder}/data.json")
    assert "\n" not in text
    assert len(text) < len(str(folder)) + 400
    return text.removeprefix(f"{folder}/data.json").removeprefix(": ")


def with_value(said: Json, *path: str | int, to: Any) -> Json:
    place: Any = said
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return said


SECOND = "(annotation 4 of image 1.jpg)"
SIZE_RULE = "must be the photograph's, a whole number of pixels from 1 on"
UNQUOTED = "; write it without quotation marks"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            ("annotations", 1, "category_id"),
            [1],
            f"category_id {SECOND} must be the id of a category, a number or a text",
        ),
        (
            ("annotations", 1, "category_id"),
            9,
            f"category_id {SECOND} must be the id of one of the categories, got 9",
        ),
        (("annotations", 1, "category_id"), "2", 'got "2"; there it is 2; write both alike'),
        (
            ("annotations", 1, "category_id"),
            ...,
            f'annotations[1] {SECOND} must have category_id, got {{"id": 4, ',
        ),
        (
            ("annotations", 1, "image_id"),
            9,
            "image_id (annotation 4 of image 9) must be the id of one of the images, got 9",
        ),
        (
            ("annotations", 1, "image_id"),
            None,
            "image_id (annotation 4) must be the id of an image",
        ),
        (
            ("annotations", 1, "iscrowd"),
            "0",
            f'iscrowd {SECOND} must be the number 0 or 1, got "0"{UNQUOTED}',
        ),
        (("annotations", 1, "iscrowd"), 2, f"iscrowd {SECOND} must be the number 0 or 1, got 2"),
        (
            ("annotations", 1, "area"),
            "64.0",
            f'area {SECOND} must be a number of pixels from 0 on, got "64.0"; write',
        ),
        (
            ("annotations", 1, "area"),
            -1,
            f"area {SECOND} must be a number of pixels from 0 on, got -1",
        ),
        (
            ("annotations", 1, "area"),
            float("nan"),
            f"area {SECOND} must be a number of pixels from 0 on, got NaN",
        ),
        (("annotations", 1, "area"), 10**400, "must be a number of pixels from 0 on, got Infinity"),
        (("annotations", 1), None, "annotations[1] (without an id) must be an object, got null"),
        (
            ("annotations", 1, "segmentation", 0, 2),
            float("nan"),
            f"annotations[1].segmentation[0][2] {SECOND} must be a number, got NaN; 1 of 4 ",
        ),
        (("annotations", 1, "segmentation", 0, 2), float("inf"), "got Infinity"),
        (
            ("annotations", 1, "segmentation", 0, 2),
            None,
            f"segmentation[0][2] {SECOND} must be a number, got null",
        ),
        (
            ("annotations", 1, "segmentation", 0, 2),
            1e9,
            "its width of 32 pixels beside it, got 1000000000.0",
        ),
        (
            ("annotations", 1, "segmentation"),
            {"size": [HEIGHT, WIDTH]},
            f"segmentation {SECOND} must have counts",
        ),
        (
            ("images", 0, "file_name"),
            None,
            "images[0].file_name (1) must be the name of a file, got null",
        ),
        (
            ("images", 0, "file_name"),
            "",
            'images[0].file_name (1) must be the name of a file, got ""',
        ),
        (("images", 0, "height"), None, "images[0].height (1.jpg) " + SIZE_RULE + ", got null"),
        (("images", 0, "height"), ..., "images[0] (1.jpg) must have height"),
        (("images", 0, "height"), "24", SIZE_RULE + ', got "24"' + UNQUOTED),
        (("images", 0, "height"), True, "images[0].height (1.jpg) must be the photograph's"),
        (("images", 0, "height"), 0, "images[0].height (1.jpg) must be the photograph's"),
        (("images", 0, "height"), 23.5, "images[0].height (1.jpg) must be the photograph's"),
        (("images", 0, "height"), -(10**30), "images[0].height (1.jpg) must be the photograph's"),
        (("images", 0, "height"), 10**9, "images[0] (1.jpg) must have at most 178956970 pixels"),
        (
            ("images", 1, "id"),
            1,
            "images[1].id (2.jpg) must be an id of its own, got 1; images[0] (1.jpg) has the same",
        ),
        (
            ("images", 1, "file_name"),
            "1.jpg",
            "images[1].file_name (1.jpg) must be a photograph of its own, with all its objects",
        ),
        (
            ("categories", 1, "id"),
            1,
            "categories[1].id (person) must be an id of its own, got 1; categories[0] (car)",
        ),
        (
            ("categories", 1, "id"),
            "2",
            'must be the id of one of the categories, got 2; there it is "2"',
        ),
        (
            ("categories", 1, "name"),
            "car",
            "categories[1].name (car) must be a name of its own, by which labels are told apart",
        ),
        (("categories", 1, "name"), 7, "categories[1].name (7) must be a text, got 7"),
        (
            ("categories", 1, "isthing"),
            "0",
            'categories[1].isthing (person) must be the number 0 or 1, got "0"',
        ),
        (("annotations",), [], " must list annotations, to learn or to judge by; it lists none"),
        (("images",), {}, " must be COCO's JSON, with lists of images, annotations and categories"),
    ],
)
def test_what_is_wrong_in_a_json_of_instances_is_named(
    path: tuple[str | int, ...], value: Any, said: str, tmp_path: Path
) -> None:
    assert said in refusal_of(tmp_path, with_value(instances_json(), *path, to=value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            ("categories", 1, "isthing"),
            "0",
            'categories[1].isthing (road) must be the number 0 or 1, got "0"',
        ),
        (
            ("annotations", 1, "segments_info", 0, "iscrowd"),
            "0",
            "segments_info[0].iscrowd (without an id, of image 2.jpg) must be the number",
        ),
        (
            ("annotations", 1, "segments_info", 0, "category_id"),
            3,
            "(without an id, of image 2.jpg) must be the id of one of the categories, got 3",
        ),
        (("annotations", 1, "segments_info", 0, "id"), 2**40, "segments_info[0].id"),
        (
            ("annotations", 1, "segments_info"),
            None,
            "segments_info (without an id, of image 2.jpg) must be a list of segments",
        ),
        (
            ("annotations", 1, "image_id"),
            1,
            "must be an image that no other annotation is of, got 1; annotations[0]",
        ),
        (
            ("annotations", 1, "file_name"),
            "1.png",
            'must be a map of its own, got "1.png"; annotations[0] (without an id, of image',
        ),
        (("images", 1, "id"), 1, "images[1].id (2.jpg) must be an id of its own"),
    ],
)
def test_what_is_wrong_in_a_panoptic_json_is_named(
    path: tuple[str | int, ...], value: Any, said: str, tmp_path: Path
) -> None:
    assert said in refusal_of(tmp_path, with_value(panoptic_json(), *path, to=value))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "must be JSON, and is not: Input data was truncated"),
        (
            json.dumps(instances_json()).encode()[:-40],
            "must be JSON, and is not: Input data was truncated",
        ),
        (b"<html>404</html>", "must be JSON"),
        (b"[" * 100_000, "must be"),
        (
            b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "must be JSON, and is not: it nests too deep",
        ),
        (b"[]", "must be COCO's JSON"),
        (json.dumps(instances_json()).replace("1.jpg", "é.jpg").encode("latin-1"), "must be JSON"),
        (b'{"version": "5.0.1", "shapes": []}', "must be COCO's JSON, with lists of images"),
    ],
)
def test_what_is_no_json_of_coco_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal_of(tmp_path, data)


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


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 40)
    | st.sampled_from(
        [10**400, 1e9, 2**31, 2**63, 10**30, float("nan"), float("inf"), "0", "1", "1.jpg", "\0"]
    )
    | st.floats(-50, 90)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def places_in(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    steps = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [
        place
        for step, inner in steps
        for place in [(*path, step), *places_in(inner, (*path, step))]
    ]


def check_opening_or_refusal(
    folder: Path, said: Json, *, path: tuple[str | int, ...], value: Any, skip: bool
) -> None:
    """A data set whose targets can be made, or one line; never anything else."""
    with_value(said, *path, to=value)
    options = {"skip_unusable": True} if skip and "segmentation" in json.dumps(said) else {}
    try:
        dataset = open_coco(folder, said, **options)
        check_images(dataset)
    except ValueError as error:
        text = str(error)
        assert "\n" not in text
        assert (
            "must " in text or "there is no" in text or "there; see" in text or "segment" in text
        ), text
        return
    for index in range(len(dataset)):
        for segment in dataset.target(index).segments:
            assert segment.is_crowd in (False, True)
            assert segment.area is None or segment.area >= 0


@st.composite
def damages(draw: st.DrawFn) -> tuple[Json, tuple[str | int, ...], Any]:
    said = draw(st.sampled_from([instances_json, panoptic_json]))()
    return said, draw(st.sampled_from(places_in(said))), draw(anything | st.just(...))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages(), st.booleans())
def test_a_json_with_any_value_in_any_place_is_read_or_refused(
    tmp_path: Path, damage: tuple[Json, tuple[str | int, ...], Any], skip: bool
) -> None:
    said, path, value = damage
    check_opening_or_refusal(tmp_path, said, path=path, value=value, skip=skip)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages(), st.booleans())
def test_each_of_ten_thousand_jsons_is_read_or_refused(
    tmp_path: Path, damage: tuple[Json, tuple[str | int, ...], Any], skip: bool
) -> None:
    said, path, value = damage
    check_opening_or_refusal(tmp_path, said, path=path, value=value, skip=skip)

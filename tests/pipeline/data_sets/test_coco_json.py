"""A COCO JSON is a data set, or one line: the place, whose it is, what must hold, what came."""

import json
from pathlib import Path
from typing import Any

import pytest
from coco_jsons import HEIGHT, SECOND, WIDTH, instances_json, panoptic_json, refusal_of, with_value

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

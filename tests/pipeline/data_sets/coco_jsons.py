"""COCO JSONs of two small photographs, right and changed in one place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_files import encode_image
from corpora import put
from PIL import Image

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

HEIGHT, WIDTH = 24, 32
PHOTO = encode_image(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG")
SQUARE = [[4, 4, 12, 4, 12, 12, 4, 12]]
SECOND = "(annotation 4 of image 1.jpg)"
"""The place of the second annotation of the first photograph, in messages."""
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

"""What is known of an image takes memory by the image: not by its objects, nor by the threads."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import put
from drawn_labels import LABELS
from PIL import Image
from pycocotools import mask as coco

HEIGHT, WIDTH = 1500, 2000
OBJECTS = 100
BUDGET = 160
"""Megabytes, of which a photograph of 3 megapixels has 48."""

_CHECK = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    from pipeline.datasets import checking
    from pipeline.datasets.opening import open_labelled
    from pipeline.datasets.settings import DatasetSettings
    from pipeline.runtime.threads import Budget

    small, large = (open_labelled(DatasetSettings(dataset=place)) for place in sys.argv[1:3])
    checking._MEMORY = Budget(int(sys.argv[3]) << 20)
    checking.check_images(small)
    before = peak()
    checking.check_images(large, indices=[0])
    one = peak()
    assert checking.check_images(large, indices=[0] * 16).num_images == 16
    print(one - before, peak() - before)
    """
)


@pytest.fixture(scope="module")
def large_photo() -> bytes:
    return encode_image(Image.new("L", (WIDTH, HEIGHT)), "PNG")


def coco_json(height: int, width: int) -> dict[str, object]:
    """Discs over most of the image, each moved a little, so that all overlap."""
    row, column = np.ogrid[:height, :width]
    annotations = []
    for number in range(OBJECTS):
        middle = height // 2, width // 2 + number * width // 2000
        disc = (row - middle[0]) ** 2 + (column - middle[1]) ** 2 < (height // 3) ** 2
        rle = coco.encode(np.asfortranarray(disc, np.uint8))["counts"].decode()
        annotations.append(
            {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": int(disc.sum()),
             "segmentation": {"size": [height, width], "counts": rle}}
        )  # fmt: skip
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [{"id": i, **each} for i, each in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "disc"}],
    }


def write_instances(folder: Path, photo: bytes, *, height: int, width: int) -> str:
    said = json.dumps(coco_json(height, width)).encode()
    return put(folder, {"images/a.png": photo, "instances.json": said}) + "/instances.json"


def write_panoptic(folder: Path, photo: bytes, *, height: int, width: int) -> str:
    """A map of so many stripes, its ids over three channels."""
    ids = np.broadcast_to(np.arange(height)[:, None] * OBJECTS // height + 1, (height, width))
    channels = np.stack([ids % 16, ids // 16 + 1, np.zeros_like(ids)], -1).astype(np.uint8)
    used = np.unique(channels.reshape(-1, 3)[::width], axis=0).tolist()
    said = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "a.png",
                "segments_info": [
                    {"id": red + 256 * green, "category_id": 1, "iscrowd": 0}
                    for red, green, _ in used
                ],
            }
        ],
        "categories": [{"id": 1, "name": LABELS[0], "isthing": 1}],
    }
    put(folder, {"images/a.png": photo, "panoptic.json": json.dumps(said).encode()})
    put(folder, {"panoptic/a.png": encode_image(channels)})
    return f"{folder}/panoptic.json"


@pytest.mark.parametrize("written", [write_instances, write_panoptic])
def test_sixteen_photographs_at_once_stay_within_the_budget(
    written, large_photo: bytes, tmp_path: Path
) -> None:
    """A mask for each object took 300 MB of one photograph, and 4.8 GB of sixteen."""
    little = encode_image(Image.new("L", (40, 30)), "PNG")
    small = written(tmp_path / "small", little, height=30, width=40)
    large = written(tmp_path / "large", large_photo, height=HEIGHT, width=WIDTH)
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, small, large, str(BUDGET)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    one, many = map(int, done.stdout.split())
    assert one < 80
    assert many < 1.25 * BUDGET  # photographs and the interpreter's own come on top of targets

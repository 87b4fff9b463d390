"""Reads tasks by label_studio_sdk; prints label and COCO run lengths of each region, by image.

python through_label_studio.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from pycocotools import mask as coco

folder = Path(sys.argv[1])
interface = LabelInterface((folder / "label_config.xml").read_text())
interface.validate()
labels = [*interface.get_control("label").labels]
found = {}
for task in json.loads((folder / "tasks.json").read_text()):
    [prediction] = task["predictions"]
    rows = []
    for each in prediction["result"]:
        size = each["original_height"], each["original_width"]
        pixels = brush.decode_rle(each["value"]["rle"]).reshape(*size, 4)
        mask = np.asfortranarray((pixels[..., 3] > 0).astype(np.uint8))
        [label] = each["value"]["brushlabels"]
        rows.append([label, coco.encode(mask)["counts"].decode(), each["score"]])
    found[task["data"]["table_image_id"]] = {
        "segments": sorted(rows),
        "address": task["data"]["image"],
        "model_version": prediction["model_version"],
        "is_valid": bool(interface.validate_prediction(prediction)),
    }
print(json.dumps({"labels": labels, "images": found}))

"""Reads exports by supervision; prints label and COCO run lengths of each mask, by image.

python through_supervision.py coco=IMAGES,JSON yolo=IMAGES,LABELS,YAML
"""

import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import supervision as sv  # noqa: E402
from pycocotools import mask as coco  # noqa: E402


def opened(kind: str, places: list[str]) -> sv.DetectionDataset:
    if kind == "coco":
        return sv.DetectionDataset.from_coco(*places, force_masks=True)
    return sv.DetectionDataset.from_yolo(*places, force_masks=True)


found = {}
for word in sys.argv[1:]:
    kind, _, text = word.partition("=")
    places = text.split(",")
    dataset = opened(kind, places)
    images = {}
    for path, picture, detections in dataset:
        rows = []
        for number in range(len(detections)):
            mask = np.asfortranarray(np.asarray(detections.mask[number]).astype(np.uint8))
            label = dataset.classes[int(detections.class_id[number])]
            rows.append([label, coco.encode(mask)["counts"].decode()])
        name = os.path.relpath(path, places[0])
        images[name] = {"segments": sorted(rows), "size": list(picture.shape[:2])}
    found[kind] = images
print(json.dumps(found))

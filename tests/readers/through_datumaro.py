"""Reads exports by datumaro; prints label and COCO run lengths of each mask, by image.

python through_datumaro.py FORMAT=FOLDER ...
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from datumaro import Dataset  # noqa: E402
from datumaro.components.annotation import AnnotationType  # noqa: E402
from pycocotools import mask as coco  # noqa: E402

found = {}
for word in sys.argv[1:]:
    kind, _, folder = word.partition("=")
    dataset = Dataset.import_from(folder, kind)
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    images = {}
    for item in dataset:
        rows = []
        for each in item.annotations:
            if each.type != AnnotationType.mask:
                continue
            mask = np.asfortranarray(each.image.astype(np.uint8))
            label = None if each.label is None else names[each.label]
            rows.append([label, coco.encode(mask)["counts"].decode()])
        size = None
        if item.media is not None and item.media.data is not None:
            size = list(item.media.data.shape[:2])
        images[f"{item.subset}/{item.id}"] = {"segments": sorted(rows, key=str), "size": size}
    found[kind] = images
print(json.dumps(found))

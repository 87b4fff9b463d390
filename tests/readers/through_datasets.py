"""Reads an export by `datasets.load_dataset`; prints label and run lengths of each mask, by split.

python through_datasets.py FOLDER CACHE
"""

import json
import sys

import numpy as np
from datasets import load_dataset
from pycocotools import mask as coco

folder, cache = sys.argv[1:]
found = {}
for split, rows in load_dataset(folder, cache_dir=cache).items():
    names = rows.features["segments_info"].feature["category_id"].names
    images = {}
    for row in rows:
        channels = np.asarray(row["annotation"]).astype(np.int64)
        ids = channels @ [1, 256, 65536]
        segments = [
            [
                names[each["category_id"]],
                coco.encode(np.asfortranarray((ids == each["id"]).astype(np.uint8)))[
                    "counts"
                ].decode(),
                each["area"],
            ]
            for each in row["segments_info"]
        ]
        images[row["image_id"]] = {
            "segments": sorted(segments),
            "size": list(row["image"].size[::-1]),
            "unknown_ids": sorted(
                {*np.unique(ids).tolist()} - {0, *(each["id"] for each in row["segments_info"])}
            ),
        }
    found[split] = images
print(json.dumps(found))

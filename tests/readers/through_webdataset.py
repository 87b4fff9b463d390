"""Reads shards by webdataset; prints label and run lengths of each mask, by image_id.

python through_webdataset.py SHARD ...
"""

import io
import json
import sys

import numpy as np
import webdataset
from PIL import Image
from pycocotools import mask as coco

found = {}
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False):
    said = json.loads(sample["json"])
    pixels = np.asarray(Image.open(io.BytesIO(sample["seg.png"]))).astype(np.int64)
    ids = pixels @ [1, 256, 65536]
    segments = [
        [
            each["label"],
            coco.encode(np.asfortranarray((ids == each["id"]).astype(np.uint8)))["counts"].decode(),
        ]
        for each in said["segments_info"]
    ]
    photo = next(value for key, value in sample.items() if key in ("jpg", "png", "jpeg"))
    found[said["image_id"]] = {
        "key": sample["__key__"],
        "segments": sorted(segments),
        "size": list(Image.open(io.BytesIO(photo)).size[::-1]),
    }
print(json.dumps(found))

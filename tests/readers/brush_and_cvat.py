"""Encodes drawn masks with cvat_sdk and label_studio_sdk, and prints what comes out as JSON.

Takes the path of an .npz with masks; runs in the readers' environment.
"""

import json
import sys

import numpy as np
from cvat_sdk import masks as cvat
from label_studio_sdk.converter import brush

drawn = np.load(sys.argv[1])
found = {}
for name in drawn.files:
    mask = drawn[name]
    rle = brush.mask2rle(mask.astype(np.uint8) * 255)
    decoded = brush.decode_rle(rle).reshape(*mask.shape, 4)
    found[name] = {
        "cvat": cvat.encode_mask(mask),
        "brush": rle,
        "is_decoded": bool((decoded[..., 3].astype(bool) == mask).all()),
    }
print(json.dumps(found))

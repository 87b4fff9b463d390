"""Metrics as sums: each image adds to them, and those of two workers add to those of both.

Takes pairs of a prediction and its truth, as the image processor gives them and a data set holds
them, on any device. A metric keeps counts, never a picture; it goes through pickle, so that workers
send theirs to whoever merges and computes. All values are fractions in [0, 1], where papers write
percent, and nan where there was nothing to measure. No torch is needed.
"""

from maskformer.metrics.mask_ap import MaskAP
from maskformer.metrics.mean_iou import MeanIoU
from maskformer.metrics.panoptic_quality import PanopticQuality

__all__ = [
    "MaskAP",
    "MeanIoU",
    "PanopticQuality",
]

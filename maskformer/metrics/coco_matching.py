"""Which detections are right, as COCO's evaluation decides it: one label in one image.

Takes detections, best first, and truths of one label; `mask_ap.py` keeps the outcome. From the best
down, each detection takes the free truth that it overlaps most, if by the threshold at least. One
that takes a truth that does not count, a crowd or one of another size, does not count either.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from pycocotools import mask as coco

from maskformer.metrics.instances import Instances

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ("all", "small", "medium", "large")
_LOWEST_AREA = np.array([0, 0, 32**2, 96**2], np.float64)
_HIGHEST_AREA = np.array([1e10, 32**2, 96**2, 1e10], np.float64)


@dataclass(frozen=True, kw_only=True)
class DetectionOutcomes:
    """Detections that are neither do not count: for that size, at that threshold."""

    is_right: Bool[np.ndarray, "detections areas thresholds"]
    is_wrong: Bool[np.ndarray, "detections areas thresholds"]


def is_of_size(areas: Float64[np.ndarray, " instances"]) -> Bool[np.ndarray, "areas instances"]:
    """Tells which instances are of each of `AREAS`; one on a limit is of both."""
    return (areas >= _LOWEST_AREA[:, None]) & (areas <= _HIGHEST_AREA[:, None])


def match(detections: Instances, truths: Instances) -> DetectionOutcomes:
    """The outcome for each detection, for truths of each size, at each threshold."""
    shape = len(detections.rles), len(AREAS), len(IOU_THRESHOLDS)
    is_matched, is_excused = np.zeros(shape, bool), np.zeros(shape, bool)
    counts = is_of_size(truths.areas) & ~truths.is_crowd
    is_free = np.ones((*shape[1:], len(truths.rles)), bool)
    for place, iou in enumerate(_iou(detections, truths)):
        can_take = (iou >= IOU_THRESHOLDS[:, None]) & (is_free | truths.is_crowd)
        if not can_take.any():
            continue
        # A truth that counts goes before one that does not, whatever they overlap.
        counting = can_take & counts[:, None]
        candidates = np.where(counting.any(-1, keepdims=True), counting, can_take)
        taken = _last_argmax(np.where(candidates, iou, -1.0))
        found = candidates.any(-1)
        is_matched[place] = found
        is_excused[place] = found & ~np.take_along_axis(counts, taken, axis=1)
        areas, thresholds = found.nonzero()
        is_free[areas, thresholds, taken[found]] = False
    is_excused |= ~is_matched & ~is_of_size(detections.areas).T[:, :, None]
    return DetectionOutcomes(is_right=is_matched & ~is_excused, is_wrong=~is_matched & ~is_excused)


def _iou(detections: Instances, truths: Instances) -> Float64[np.ndarray, "detections truths"]:
    """Computes the IoU; with a crowd, the share of the detection that lies in it."""
    if not detections.rles or not truths.rles:
        return np.zeros((len(detections.rles), len(truths.rles)))
    return coco.iou(detections.rles, truths.rles, truths.is_crowd.astype(np.uint8).tolist())


def _last_argmax(values: Float64[np.ndarray, "areas thresholds truths"]) -> np.ndarray:
    """Returns the last of equal maxima, as COCO's loop does."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(-1)

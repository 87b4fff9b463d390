"""The segments of some images as columns of numbers, with their masks as run lengths.

`batch_segments.py` makes them for a batch; here they are made of one image's map. Tables are
written of them without a Python object for each segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from maskformer.cpu.segment_shapes import PackedShapes, pack_segments
from maskformer.postprocessing.segments import Segmentation


@dataclass(frozen=True, kw_only=True)
class EncodedSegments:
    """The segments of some images: image after image, by ascending id in each image."""

    num_segments: Int64[np.ndarray, " images"]
    segment_ids: Int32[np.ndarray, " segments"]
    label_ids: Int32[np.ndarray, " segments"]
    scores: Float64[np.ndarray, " segments"]
    areas: Int64[np.ndarray, " segments"]
    boxes_xywh: Int32[np.ndarray, "segments 4"]
    rle_text: UInt8[np.ndarray, " characters"]
    """COCO's compressed counts of all segments, one string after the other, in ASCII."""

    rle_begins: Int64[np.ndarray, " segments_and_end"]
    """Where each string begins, and the end of the last one."""

    second_label_ids: Int32[np.ndarray, " segments"]
    """`Segment.second_label_id`; -1 where there is none."""

    second_scores: Float64[np.ndarray, " segments"]
    """nan where there is no second label."""

    @classmethod
    def of_columns(
        cls,
        shapes: PackedShapes,
        *,
        num_segments: Int64[np.ndarray, " images"],
        segment_ids: Int32[np.ndarray, " segments"],
        label_ids: Int32[np.ndarray, " segments"],
        scores: Float64[np.ndarray, " segments"],
        second_label_ids: Int32[np.ndarray, " segments"] | None = None,
        second_scores: Float64[np.ndarray, " segments"] | None = None,
    ) -> "EncodedSegments":
        """Joins the shapes of segments with what they are."""
        if second_label_ids is None or second_scores is None:
            second_label_ids = np.full(len(scores), -1, np.int32)
            second_scores = np.full(len(scores), np.nan)
        return cls(
            num_segments=num_segments,
            segment_ids=segment_ids,
            label_ids=label_ids,
            scores=scores,
            areas=shapes.areas,
            boxes_xywh=shapes.boxes_xywh,
            rle_text=shapes.rle_text,
            rle_begins=shapes.rle_begins,
            second_label_ids=second_label_ids,
            second_scores=second_scores,
        )

    @classmethod
    def joined(cls, parts: "Sequence[EncodedSegments]") -> "EncodedSegments":
        """Joins the segments of several lots of images, of which there is at least one."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.rle_begins) for part in parts])

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            num_segments=column("num_segments"),
            segment_ids=column("segment_ids"),
            label_ids=column("label_ids"),
            scores=column("scores"),
            areas=column("areas"),
            boxes_xywh=column("boxes_xywh"),
            rle_text=column("rle_text"),
            rle_begins=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            second_label_ids=column("second_label_ids"),
            second_scores=column("second_scores"),
        )


def encode_segmentation(segmentation: Segmentation) -> EncodedSegments:
    """Returns the segments of one image; those without a pixel in the map are left out."""
    ids, shapes = pack_segments(segmentation.segmentation.numpy())
    by_id = {segment.id: segment for segment in segmentation.segments}
    segments = [by_id[segment_id] for segment_id in ids.tolist()]
    return EncodedSegments.of_columns(
        shapes,
        num_segments=np.array([len(segments)], np.int64),
        segment_ids=ids.astype(np.int32),
        label_ids=np.array([segment.label_id for segment in segments], np.int32),
        scores=np.array([segment.score for segment in segments], np.float64),
        second_label_ids=np.array(
            [-1 if s.second_label_id is None else s.second_label_id for s in segments], np.int32
        ),
        second_scores=np.array(
            [np.nan if s.second_score is None else s.second_score for s in segments], np.float64
        ),
    )

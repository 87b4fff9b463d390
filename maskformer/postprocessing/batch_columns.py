"""From a batch's numbers on the host to columns of its segments, with COCO's strings."""

import numpy as np
from jaxtyping import Float64, Int64

from maskformer.cpu.segment_shapes import pack_runs
from maskformer.postprocessing.batch_geometry import BatchGeometry
from maskformer.postprocessing.batch_transfer import ArrivedBatch
from maskformer.postprocessing.encoded_segments import EncodedSegments


def encode_batch(found: ArrivedBatch, geometry: BatchGeometry) -> EncodedSegments:
    """Makes columns of a batch's segments, and COCO's strings of their runs."""
    images, maps = found.ids.nonzero()
    ids = found.ids[images, maps].astype(np.int64)
    num_segments = found.ids.max(1, initial=0).astype(np.int64)
    segments = (np.cumsum(num_segments) - num_segments)[images] + ids - 1
    total = int(found.num_runs.sum())
    shapes = pack_runs(
        found.starts[:total],
        found.run_ids[:total],
        num_runs=found.num_runs,
        heights=np.array([image.target_size[0] for image in geometry.images], np.int64),
        pixels=geometry.pixels,
        num_segments=num_segments,
    )
    labels = np.empty(int(num_segments.sum()), np.int32)
    labels[segments] = found.labels[images, maps]
    return EncodedSegments.of_columns(
        shapes,
        num_segments=num_segments,
        segment_ids=np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in num_segments]),
        label_ids=labels,
        scores=_segment_scores(
            segments,
            scores=found.scores[images, maps].astype(np.float64),
            won=found.won[images, maps],
            num_segments=len(labels),
        ),
        **_second_labels(found, images=images, maps=maps, segments=segments),
    )


def _second_labels(
    found: ArrivedBatch,
    *,
    images: Int64[np.ndarray, " members"],
    maps: Int64[np.ndarray, " members"],
    segments: Int64[np.ndarray, " members"],
) -> dict[str, np.ndarray]:
    """Returns the columns of second labels; none where segments are not those of queries."""
    if found.second_labels is None or found.second_scores is None or found.order is None:
        return {}
    # The last one assigned stays: of several queries the first of those with most pixels.
    won = found.won[images, maps]
    last = np.lexsort((-np.arange(len(won)), won))
    member = np.empty(len(np.unique(segments)), np.int64)
    member[segments[last]] = last
    image = images[member]
    query = found.order[image, maps[member]]
    labels, scores = found.second_labels[image, query], found.second_scores[image, query]
    return {
        "second_label_ids": np.where(scores >= 0, labels, -1).astype(np.int32),
        "second_scores": np.where(scores >= 0, scores.astype(np.float64), np.nan),
    }


def _segment_scores(
    segments: Int64[np.ndarray, " members"],
    *,
    scores: Float64[np.ndarray, " members"],
    won: np.ndarray,
    num_segments: int,
) -> Float64[np.ndarray, " segments"]:
    """Returns each segment's score: its query's, or the mean of several, weighted by area."""
    result = np.empty(num_segments, np.float64)
    result[segments] = scores
    members = np.bincount(segments, minlength=num_segments)
    for segment in np.flatnonzero(members > 1).tolist():
        at = segments == segment
        # Added in the order and precision of `panoptic_segmentation`.
        pairs = zip(scores[at].tolist(), won[at].tolist(), strict=True)
        result[segment] = sum(score * area for score, area in pairs) / int(won[at].sum())
    return result

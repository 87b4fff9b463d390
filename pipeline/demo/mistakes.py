"""Finds mistakes of a table over scenes whose truth is known, and corrects them as a person would.

A person sees that a segment has a wrong label, or that a thing has no segment. The first is given
another label; the second is painted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from maskformer import decode_rle, encode_mask
from pipeline.datasets.dataset import LabelledImages

_SAME_IOU = 0.5
"""Masks that overlap by more than this share of their union are of one thing."""
_MISSED_IOU = 0.2
"""A thing is missed if no segment overlaps it by more."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A segment with a wrong label, or a thing without a segment."""

    image_id: str
    label: str
    """The true one."""
    segment_id: int | None
    """The segment with another label; None where the thing has no segment."""
    wrong_label: str | None
    mask: Bool[np.ndarray, "height width"]
    """The pixels of the segment after the correction."""

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def correction(self) -> str:
        """Returns what a person does about it, as a sentence's end."""
        if self.segment_id is None:
            return f"a {self.label} without a segment is painted"
        return f"segment {self.segment_id} was called {self.wrong_label}, and is a {self.label}"


def chosen_mistakes(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Returns the largest wrong label and the largest missed thing, in two images.

    Where one kind is lacking, two of the other; fewer where there are not as many.
    """
    ordered = sorted(mistakes, key=lambda each: (-each.area, each.image_id))
    wrong = [each for each in ordered if each.segment_id is not None]
    missed = [each for each in ordered if each.segment_id is None]
    chosen: list[Mistake] = []
    for each in (*wrong[:1], *missed, *wrong):
        if len(chosen) < 2 and each.image_id not in {other.image_id for other in chosen}:
            chosen.append(each)
    return chosen


def found_mistakes(
    truth: LabelledImages, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[Mistake]:
    """Yields the mistakes of each image.

    Args:
        rows: a table's segments, by image_id.
    """
    for index in range(len(truth)):
        image_id = truth.image_id(index)
        yield from _mistakes(
            image_id, rows.get(image_id, ()), truth.target(index), labels=truth.labels
        )


def is_corrected(mistake: Mistake, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a segment among these rows is as the correction left it."""
    return any(
        row["label"] == mistake.label and _iou(_mask(row), mistake.mask) > _SAME_IOU for row in rows
    )


def corrected_state(state: Mapping[str, Any], mistake: Mistake) -> dict[str, Any]:
    """Returns what the page sends after a person has corrected a mistake.

    Args:
        state: of the image, as the page gets it.
    """
    segments, segment_id = list(state["segments"]), mistake.segment_id
    kind = "relabel"
    if segment_id is not None:
        segments = [
            {**each, "label": mistake.label} if each["segment_id"] == segment_id else each
            for each in segments
        ]
    else:
        kind, segment_id = "draw", max([0, *(each["segment_id"] for each in segments)]) + 1
        painted = {"segment_id": segment_id, "label": mistake.label,
                   "rle": encode_mask(mistake.mask), "origin_segment_id": None}  # fmt: skip
        segments = [*_painted_over(state, mask=mistake.mask), painted]
    operation = {"kind": kind, "segment_ids": [segment_id], "label_from": mistake.wrong_label,
                 "label_to": mistake.label, "pixels": mistake.area}  # fmt: skip
    return {
        "image_id": mistake.image_id, "parent_revision": state["revision"], "status": "corrected",
        "comment": None, "seconds": None, "operations": [operation], "segments": segments,
    }  # fmt: skip


def accepted_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page sends after a person has accepted an image."""
    return {
        "image_id": state["image_id"], "parent_revision": state["revision"], "status": "accepted",
        "comment": None, "seconds": None, "operations": [], "segments": state["segments"],
    }  # fmt: skip


def _mistakes(image_id: str, rows: Any, target: Any, *, labels: Any) -> Iterator[Mistake]:
    predicted = np.zeros(target.size, np.int64)
    for place, row in enumerate(rows, start=1):
        predicted[_mask(row)] = place
    ids = [segment.id for segment in target.segments]
    overlaps = _overlaps(predicted, target.ids, num_rows=len(rows), ids=ids)
    found = {row["label"] for row in rows}
    for place, segment in enumerate(target.segments):
        label, is_thing = labels.names[segment.label_id], segment.label_id in labels.things
        best = int(overlaps[:, place].argmax()) if len(rows) else 0
        overlap = float(overlaps[best, place]) if len(rows) else 0.0
        if (
            overlap > _SAME_IOU
            and rows[best]["label"] != label
            and (is_thing or label not in found)
        ):
            yield Mistake(
                image_id=image_id, label=label, segment_id=rows[best]["segment_id"],
                wrong_label=rows[best]["label"], mask=_mask(rows[best]),
            )  # fmt: skip
        elif is_thing and overlap < _MISSED_IOU:
            yield Mistake(
                image_id=image_id, label=label, segment_id=None, wrong_label=None,
                mask=target.ids == segment.id,
            )  # fmt: skip


def _overlaps(
    predicted: Integer[np.ndarray, "height width"],
    true_ids: Integer[np.ndarray, "height width"],
    *,
    num_rows: int,
    ids: Sequence[int],
) -> Float[np.ndarray, "rows truths"]:
    """Returns the intersection over union of each row with each true segment."""
    most = max([0, *ids]) + 1
    pairs = predicted.ravel() * most + true_ids.ravel().astype(np.int64)
    shared = np.bincount(pairs, minlength=(num_rows + 1) * most).reshape(num_rows + 1, most)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    return (shared / np.maximum(union, 1))[1:, list(ids)]


def _painted_over(
    state: Mapping[str, Any], *, mask: Bool[np.ndarray, "height width"]
) -> Iterator[dict[str, Any]]:
    """Yields the segments of a state without the pixels that a new one takes."""
    size = {"height": state["height"], "width": state["width"]}
    for segment in state["segments"]:
        own = decode_rle(segment["rle"], **size)
        if not (own & mask).any():
            yield segment
        elif (left := own & ~mask).any():
            yield {**segment, "rle": encode_mask(left)}


def _mask(row: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    return decode_rle(row["rle"], height=row["height"], width=row["width"])


def _iou(one: Bool[np.ndarray, "height width"], other: Bool[np.ndarray, "height width"]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))

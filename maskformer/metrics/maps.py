"""Maps of labels and of segments, read and checked for the metrics.

Takes what people give, arrays or tensors or pictures; the metrics take what comes out and check
nothing again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64, Integer

Role = Literal["prediction", "target"]

MAX_SEGMENT_ID = (1 << 24) - 1
"""The highest that COCO's pictures can hold."""


def integer_map(given: Any, *, role: Role) -> Integer[np.ndarray, "height width"]:
    """A map as an array, of an array, a PIL picture or a tensor on any device."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    array = np.asarray(given)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"a {role} is a map of whole numbers, (height, width), got an array of {array.dtype} "
            f"and shape {array.shape}"
        )
    return array


def check_same_size(prediction_size: Sequence[int], target_size: Sequence[int]) -> None:
    if tuple(prediction_size) != tuple(target_size):
        raise ValueError(
            f"a prediction has its target's (height, width), got {tuple(prediction_size)} and "
            f"{tuple(target_size)}; give the target's as target_sizes to the post-processing"
        )


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """Labels as predicted and as they are, `num_labels` where a map has `ignore_index`."""

    predicted: Integer[np.ndarray, "height width"]
    true: Integer[np.ndarray, "height width"]

    @classmethod
    def of(
        cls, prediction: Any, target: Any, *, num_labels: int, ignore_index: int | None
    ) -> "LabelPair":
        predicted = _label_codes(
            prediction, role="prediction", num_labels=num_labels, ignore_index=ignore_index
        )
        true = _label_codes(target, role="target", num_labels=num_labels, ignore_index=ignore_index)
        check_same_size(predicted.shape, true.shape)
        return cls(predicted=predicted, true=true)


def _label_codes(
    given: Any, *, num_labels: int, ignore_index: int | None, role: Role
) -> Integer[np.ndarray, "height width"]:
    labels = integer_map(given, role=role)
    is_ignored = None if ignore_index is None else labels == ignore_index
    is_unknown = labels >= num_labels
    if np.issubdtype(labels.dtype, np.signedinteger):
        is_unknown |= labels < 0
    if is_ignored is not None:
        is_unknown &= ~is_ignored
    if is_unknown.any():
        values, counts = np.unique(labels[is_unknown], return_counts=True)
        shown = ", ".join(
            f"{value} ({count} pixels)"
            for value, count in zip(values[:10].tolist(), counts[:10].tolist(), strict=True)
        )
        raise ValueError(
            f"labels are 0 to {num_labels - 1} or ignore_index ({ignore_index}), the {role} has "
            f"{shown}; raise num_labels, or map them before"
        )
    codes = labels.astype(np.intp)
    if is_ignored is not None:
        codes[is_ignored] = num_labels
    return codes


@dataclass(frozen=True, kw_only=True)
class LabelledSegments:
    """Segments in the order of their `segments_info`; `places` counts them from 1, 0 is void."""

    places: Integer[np.ndarray, "height width"]
    labels: Int64[np.ndarray, " segments"]
    is_crowd: Bool[np.ndarray, " segments"]
    areas: Int64[np.ndarray, " segments"]

    @classmethod
    def of(cls, picture: Mapping[str, Any], *, num_labels: int, role: Role) -> "LabelledSegments":
        """Reads a result of `post_process_panoptic_segmentation`, or a truth like it."""
        infos = segment_infos(picture, role=role)
        id_map = integer_map(picture["segmentation"], role=role)
        ids = np.array([int(info["id"]) for info in infos], np.int64)
        _check_ids(ids, role=role)
        places = _places(id_map, ids, role=role)
        areas = np.bincount(places.ravel(), minlength=len(ids) + 1)[1:]
        if not areas.all():
            raise ValueError(
                f"each segment has a pixel, and the {role}'s segments_info has ids without any: "
                f"{ids[areas == 0].tolist()[:10]}; leave them out"
            )
        return cls(
            places=places,
            labels=segment_labels(infos, num_labels=num_labels, role=role),
            is_crowd=crowd_flags(infos),
            areas=areas.astype(np.int64),
        )


def segment_infos(picture: Mapping[str, Any], *, role: Role) -> list[Mapping[str, Any]]:
    """The `segments_info` of a picture."""
    if not {"segmentation", "segments_info"} <= picture.keys():
        raise ValueError(
            f"a {role} is a dict of `segmentation` and `segments_info`, got {sorted(picture)}"
        )
    return list(picture["segments_info"])


def segment_labels(
    infos: Sequence[Mapping[str, Any]], *, num_labels: int, role: Role
) -> Int64[np.ndarray, " segments"]:
    """The label of each segment."""
    labels = np.array([int(info["label_id"]) for info in infos], np.int64)
    unknown = [
        f"{info['label_id']} (id {info.get('id')})"
        for info in infos
        if not 0 <= int(info["label_id"]) < num_labels
    ]
    if unknown:
        raise ValueError(
            f"labels are 0 to {num_labels - 1}, the {role}'s segments_info has "
            f"{', '.join(unknown[:10])}; map a data set's category ids to labels before"
        )
    return labels


def crowd_flags(infos: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, " segments"]:
    """Tells which segments are a crowd of their label rather than one thing."""
    return np.array([bool(info.get("iscrowd", False)) for info in infos], bool)


def _check_ids(ids: Int64[np.ndarray, " segments"], *, role: Role) -> None:
    wrong = ids[(ids < 1) | (ids > MAX_SEGMENT_ID)]
    if len(wrong):
        raise ValueError(
            f"segment ids are 1 to {MAX_SEGMENT_ID}, 0 is void; the {role}'s segments_info has "
            f"{wrong.tolist()[:10]}"
        )
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise ValueError(
            f"each segment has an id of its own, the {role}'s segments_info repeats "
            f"{unique[counts > 1].tolist()[:10]}"
        )


def _places(
    id_map: Integer[np.ndarray, "height width"], ids: Int64[np.ndarray, " segments"], *, role: Role
) -> Integer[np.ndarray, "height width"]:
    """Replaces each id by its place in `ids`, from 1; void stays 0."""
    highest = int(ids.max(initial=0))
    in_range = id_map
    if id_map.size and (int(id_map.min()) < 0 or int(id_map.max()) > highest):
        in_range = np.where((id_map < 0) | (id_map > highest), 0, id_map)
    # Only the entries that are used take memory: zeros come from untouched pages.
    table = np.zeros(highest + 1, np.int32)
    table[ids] = np.arange(1, len(ids) + 1)
    places = table[in_range]
    is_unknown = (places == 0) & (id_map != 0)
    if is_unknown.any():
        raise ValueError(
            f"each id in a {role}'s map has a row in its segments_info, and 0 is void; there is "
            f"none for {np.unique(id_map[is_unknown]).tolist()[:10]}"
        )
    return places

"""Label maps: from the ids of a map's pixels to a mask and a label for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Integer

from maskformer.preprocessing.pixel_arrays import as_array

IdToLabel = Mapping[int, int]


def binary_masks(
    id_map: Integer[np.ndarray, "height width"],
    mapping: IdToLabel | None,
    *,
    ignore_index: int | None,
    do_reduce_labels: bool,
) -> tuple[Float32[np.ndarray, "masks height width"], Int64[np.ndarray, " masks"]]:
    """Returns a mask and a label for each id in the map but `ignore_index`, ascending.

    With `do_reduce_labels` id 0 is ignored too, and labels are lower by one.
    """
    if do_reduce_labels and ignore_index is None:
        raise ValueError("do_reduce_labels turns id 0 into ignore_index, which is None; give both")
    ids = np.unique(id_map).astype(np.int64)
    # Pixels that were ignored before labels are reduced stay so: they make no label 254.
    ignored = [] if ignore_index is None else [ignore_index]
    if do_reduce_labels:
        ignored += [0, ignored[0] + 1]
    kept = ids[~np.isin(ids, ignored)]
    masks = id_map[None] == kept.astype(id_map.dtype)[:, None, None]
    labels = kept if mapping is None else _mapped(kept, mapping)
    return masks.astype(np.float32), labels - 1 if do_reduce_labels else labels


def as_id_map(item: Any) -> Integer[np.ndarray, "height width"]:
    """Makes a map of whole numbers of an image, an array or a tensor; refuses other shapes."""
    array = as_array(item)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise ValueError(f"a segmentation map is (height, width), got an array of {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        ids = array.astype(np.int64)
        if (ids != array).any():
            raise ValueError(f"a segmentation map holds whole ids, got {array.dtype} values")
        return ids
    return array


def _mapped(ids: Int64[np.ndarray, " ids"], mapping: IdToLabel) -> Int64[np.ndarray, " ids"]:
    missing = [int(i) for i in ids if int(i) not in mapping]
    if missing:
        raise KeyError(
            f"instance_id_to_semantic_id must know every id in the map, and lacks {missing[:10]}; "
            "add them, or mark their pixels with ignore_index"
        )
    return np.array([mapping[int(i)] for i in ids], dtype=np.int64)


def check_map_count(images: Sequence[Any], maps: Sequence[Any]) -> None:
    if len(images) != len(maps):
        raise ValueError(
            "Images and segmentation maps must have the same length. "
            f"Got {len(images)} and {len(maps)}."
        )


def check_map_size(map_size: Sequence[int], image_size: Sequence[int], *, place: int) -> None:
    if tuple(map_size) != tuple(image_size):
        raise ValueError(
            f"a segmentation map has its image's (height, width), got {tuple(map_size)} for an "
            f"image of {tuple(image_size)} at position {place}; an image that EXIF says to turn "
            "is turned first"
        )

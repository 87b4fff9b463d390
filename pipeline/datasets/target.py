"""Defines the target: the true segments of one image, in a form small enough to travel.

The readers of this folder make targets; evaluation compares predictions with them, and training
learns from them. Each holds one map of ids, in which 0 is void: pixels that nobody labelled, or
that are to be ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Integer, UInt8

from maskformer import area_of, decode_rle, is_overlapping, painted, rle_runs
from pipeline.datasets.id_maps import count_ids, look_up_ids, row_slices


class LabelError(ValueError):
    """Labelled data is wrong; the message names the image, the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a data set."""

    names: tuple[str, ...]
    """By label id."""
    things: frozenset[int] = frozenset()
    """Ids of labels that count objects; the others are stuff."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a data set must have at least one label, got none")
        if unknown := sorted(thing for thing in self.things if not 0 <= thing < len(self.names)):
            raise ValueError(f"things must be ids of labels, 0 to {len(self.names) - 1}: {unknown}")


@dataclass(frozen=True, kw_only=True)
class TrueSegment:
    """A labelled object, or a labelled region of stuff."""

    id: int
    """Its value in the map, from 1."""
    label_id: int
    is_crowd: bool = False
    """True for many objects in one mask, which count neither for nor against a prediction."""
    rle: str | None = None
    """The whole mask, as COCO's compressed counts, where objects overlap; None otherwise."""
    area: float | None = None
    """Pixels inside the outline, by which COCO calls an object small; None for the mask's own."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The true segments of one image. An object that others hide has no pixel in the map."""

    ids: Integer[np.ndarray, "height width"]
    segments: tuple[TrueSegment, ...]
    is_overlapping: bool = False
    """True where objects overlap: then the map shows only parts of them, and each has an `rle`. A
    crowd lies below all objects and hides none."""

    @property
    def size(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def label_map(self, *, ignore_index: int) -> Integer[np.ndarray, "height width"]:
        """Returns the label of each pixel, `ignore_index` where there is none."""
        highest = max([ignore_index, *(segment.label_id for segment in self.segments)])
        label_of = np.full(
            max([0, *(segment.id for segment in self.segments)]) + 1,
            ignore_index,
            np.min_scalar_type(highest),
        )
        for segment in self.segments:
            label_of[segment.id] = segment.label_id
        return look_up_ids(label_of, self.ids)


def turn_upright(target: Target, *, orientation: int) -> Target:
    """Turns a target that was drawn on the photograph as stored, as EXIF turns the photograph.

    Args:
        orientation: of EXIF, 5 to 8: those that exchange height and width.
    """

    def upright(pixels: np.ndarray) -> np.ndarray:
        if orientation in (5, 7):
            return pixels.T if orientation == 5 else pixels[::-1, ::-1].T
        return np.rot90(pixels, -1 if orientation == 6 else 1)

    height, width = target.size

    def upright_rle(rle: str | None) -> str | None:
        if rle is None:
            return None
        # Imported here, because readers start without the kernels that this loads.
        from maskformer import encode_mask

        return encode_mask(upright(decode_rle(rle, height=height, width=width)))

    return replace(
        target,
        ids=np.ascontiguousarray(upright(target.ids)),
        segments=tuple(replace(each, rle=upright_rle(each.rle)) for each in target.segments),
    )


def label_map_target(
    values: Integer[np.ndarray, "height width"],
    *,
    labels: Labels,
    ignore_index: int,
    reduce_labels: bool = False,
    source: str,
) -> Target:
    """Makes the target of a label map: one segment for each label in it.

    Args:
        ignore_index: the value of pixels that are ignored.
        reduce_labels: 0 is ignored too, and 1 is the first label, as in ADE20K.
        source: the image and its file, for messages.

    Raises:
        LabelError: a value is no label.
    """
    first, count = int(reduce_labels), len(labels.names)
    present = _present(values, source=source)
    wrong = [
        value
        for value in present
        if value != ignore_index
        and not (reduce_labels and value == 0)
        and not first <= value < first + count
    ]
    if wrong:
        shown = ", ".join(map(str, wrong[:5]))
        raise LabelError(
            f"{source}: a label must be in {first} to {first + count - 1}, or the ignore_index "
            f"{ignore_index}, or have its value beside its name in labels.json, "
            f'{{"7": "road", "24": "person"}}; the map holds {shown}'
        )
    # 0 is void, so that label i has the id i + 1.
    id_of = np.zeros(present[-1] + 1, np.min_scalar_type(count))
    label_ids = [value - first for value in present if first <= value < first + count]
    label_ids = [label for label in label_ids if label + first != ignore_index]
    for label in label_ids:
        id_of[label + first] = label + 1
    return Target(
        ids=look_up_ids(id_of, values),
        segments=tuple(TrueSegment(id=label + 1, label_id=label) for label in label_ids),
    )


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """The description of one segment of an id map, as in COCO's `segments_info`."""

    id: int
    label_id: int
    is_crowd: bool = False


def id_map_target(
    values: Integer[np.ndarray, "height width"],
    described: Sequence[SegmentInfo],
    *,
    labels: Labels,
    source: str,
) -> Target:
    """Makes the target of a map of segment ids, renumbered 1, 2, ... in the order described.

    Raises:
        LabelError: map and description do not fit, or a label is none.
    """
    for segment in described:
        if not 0 <= segment.label_id < len(labels.names):
            raise LabelError(
                f"{source}: segment {segment.id} has label {segment.label_id}; labels go from 0 to "
                f"{len(labels.names) - 1}"
            )
    ids = [segment.id for segment in described]
    if len(set(ids)) < len(ids):
        raise LabelError(f"{source}: two segments have the same id; each needs its own")
    slices = [*row_slices(values)]
    present = {value for rows in slices for value in np.unique(values[rows]).tolist()} - {0}
    if missing := sorted(present - set(ids)):
        raise LabelError(
            f"{source}: the map holds segment {missing[0]}, which is described nowhere"
        )
    if absent := sorted(set(ids) - present):
        raise LabelError(f"{source}: segment {absent[0]} is described, but has no pixel in the map")
    order = np.argsort(ids)
    known = np.array([0, *sorted(ids)])
    new_ids = np.zeros(len(ids) + 1, np.min_scalar_type(len(ids)))
    new_ids[1:] = order + 1
    numbered = np.empty(values.shape, new_ids.dtype)
    for rows in slices:
        numbered[rows] = new_ids[np.searchsorted(known, values[rows])]
    return Target(
        ids=numbered,
        segments=tuple(
            TrueSegment(id=number, label_id=segment.label_id, is_crowd=segment.is_crowd)
            for number, segment in enumerate(described, start=1)
        ),
    )


def objects_target(segments: Sequence[TrueSegment], *, size: tuple[int, int]) -> Target:
    """Makes the target of objects that each have an `rle`; `size` is (height, width).

    In the map small objects lie on top of large ones, and crowds below all. No mask is decoded, so
    that memory grows with the image and not with the number of objects.

    Raises:
        ValueError: an rle is no mask of that size.
    """
    height, width = size
    masks = [rle_runs(segment.rle or "", height=height, width=width) for segment in segments]
    order = sorted(
        range(len(masks)), key=lambda index: (not segments[index].is_crowd, -area_of(masks[index]))
    )
    return Target(
        ids=painted(
            [masks[index] for index in order],
            [segments[index].id for index in order],
            height=height,
            width=width,
        ),
        segments=tuple(segments),
        is_overlapping=is_overlapping(
            [mask for mask, each in zip(masks, segments, strict=True) if not each.is_crowd]
        ),
    )


def _present(values: Integer[np.ndarray, "height width"], *, source: str) -> list[int]:
    """Returns the values of a map in rising order."""
    if values.dtype.kind == "i" and int(values.min()) < 0:
        raise LabelError(f"{source}: a label must be at least 0, the map holds {values.min()}")
    if int(values.max()) >= 1 << 16:
        raise LabelError(f"{source}: a label map holds 16 bits, this one holds {values.max()}")
    return np.flatnonzero(count_ids(values)).tolist()


def rgb_ids(pixels: UInt8[np.ndarray, "height width 3"]) -> Integer[np.ndarray, "height width"]:
    """Returns the ids of a map that spreads them over three channels, lowest byte first."""
    ids = np.empty(pixels.shape[:2], np.int32)
    for rows in row_slices(pixels):
        channels = pixels[rows].astype(np.int32)
        ids[rows] = channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16)
    return ids

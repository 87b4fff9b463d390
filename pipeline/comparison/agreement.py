"""Measures how far two tables agree on images: PQ, area of the same label, and what changed.

A segment of either table is one of these:

- kept: a segment of the other table has its label, and their intersection over union is above 0.5;
- relabelled: the same, with another label;
- lost or gained: a segment of the first or of the second table without such a partner.

PQ counts kept segments as matches, as `maskformer.PanopticQuality` does where the first table is
the truth and pixels without a segment are a label of their own, which the mean leaves out: so a
gained segment costs as much as a lost one, and both directions give the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from maskformer import RleOverlaps, decode_rle, measure_rles, overlap_rles
from pipeline.comparison.common_labels import CommonLabels
from pipeline.comparison.pairs import Flags, Ints, PairedImages
from pipeline.comparison.sums import Sums

AGREEMENT = pa.schema(
    [
        ("image_id", pa.string()),
        ("state", pa.string()),
        ("disagreement", pa.float32()),
        ("pq", pa.float32()),
        ("area_same_label", pa.float32()),
        ("segments_a", pa.int32()),
        ("segments_b", pa.int32()),
        ("kept", pa.int32()),
        ("gained", pa.int32()),
        ("lost", pa.int32()),
        ("relabelled", pa.int32()),
        ("change_from", pa.string()),
        ("change_to", pa.string()),
        ("change_share", pa.float32()),
    ]
)
"""One row per image of either table, ascending by image_id.

`state` says whether it was compared: `both`, or why not (`STATES`). `area_same_label` is the share
of the pixels with a segment in either table whose label is the same in both. `disagreement` is 1
minus the mean of it and `pq`. The largest change of labels goes from `change_from` to `change_to`,
null for no segment, and has `change_share` of these pixels."""

STATES = {
    "both": "compared",
    "only_a": "only in the first table",
    "only_b": "only in the second table",
    "error_a": "in error in the first table",
    "error_b": "in error in the second table",
    "error_both": "in error in both tables",
    "other_size": "of another size in the second table",
}
_CODES = {state: code for code, state in enumerate(STATES)}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Rows of `AGREEMENT`, and the sums over them."""

    rows: pa.Table
    sums: Sums


def measure_agreement(
    pairs: PairedImages, *, labels: CommonLabels, may_overlap: bool = False
) -> Agreement:
    """Measures some images.

    Args:
        may_overlap: segments of one table may share pixels, as in instance tables; the first of
            them has such a pixel's label.

    Raises:
        ValueError: run lengths are no mask of the image's size.
    """
    state = _states(pairs)
    is_compared = state == _CODES["both"]
    segments = _Segments(pairs, is_compared=is_compared)
    overlaps = segments.overlaps(is_disjoint=not may_overlap)
    match = _Matches(segments, overlaps)
    area = _Areas(segments, overlaps, num_labels=len(labels.names), num_images=len(state))
    if may_overlap:
        area.replace_overlapping(pairs)
    rows = _rows(pairs, state, match=match, area=area, labels=labels)
    return Agreement(rows=rows, sums=_sums(state, match=match, area=area, labels=labels))


def _states(pairs: PairedImages) -> Ints:
    (has_a, has_b), (ok_a, ok_b) = pairs.is_there, pairs.is_ok
    is_other = (pairs.heights[0] != pairs.heights[1]) | (pairs.widths[0] != pairs.widths[1])
    conditions = {
        "only_a": ~has_b,
        "only_b": ~has_a,
        "error_both": ~ok_a & ~ok_b,
        "error_a": ~ok_a,
        "error_b": ~ok_b,
        "other_size": is_other,
    }
    codes = [_CODES[name] for name in conditions]
    return np.select(list(conditions.values()), codes, default=_CODES["both"])


class _Segments:
    """The segments of the compared images, as arrays."""

    def __init__(self, pairs: PairedImages, *, is_compared: Flags) -> None:
        chosen = is_compared[pairs.image]
        self.num_images = len(is_compared)
        self.image_ids = pairs.image_ids
        self.image = pairs.image[chosen]
        self.is_second = pairs.is_second[chosen]
        self.label = pairs.label[chosen]
        self.rle = pairs.rle.filter(pa.array(chosen))
        self.height = pairs.heights[0][self.image]
        self.width = pairs.widths[0][self.image]

    def overlaps(self, *, is_disjoint: bool) -> RleOverlaps:
        text, offsets = text_of(self.rle)
        found = overlap_rles(
            text,
            offsets=offsets,
            images=self.image,
            is_second=self.is_second,
            heights=self.height,
            widths=self.width,
            is_disjoint=is_disjoint,
        )
        if not found.is_valid.all():
            wrong = int(np.flatnonzero(~found.is_valid)[0])
            table = "second" if self.is_second[wrong] else "first"
            raise ValueError(
                f"run lengths must be a mask of the image's size, {self.height[wrong]} × "
                f"{self.width[wrong]}; a segment of {self.image_ids[self.image[wrong]]} in the "
                f"{table} table is none; see maskformer verify"
            )
        return found


def text_of(strings: pa.Array) -> tuple[npt.NDArray[np.uint8], Ints]:
    """Returns the characters of all strings, and the offsets of each and of the end."""
    if not len(strings):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    whole = strings.cast(pa.large_string())
    _, offsets, characters = whole.buffers()
    begins = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    return np.frombuffer(characters or b"", np.uint8), begins


class _Matches:
    """The partners of segments, and the counts by image that follow."""

    def __init__(self, segments: _Segments, overlaps: RleOverlaps) -> None:
        self.segments = segments
        first, second, pixels = overlaps.first, overlaps.second, overlaps.pixels
        union = overlaps.areas[first] + overlaps.areas[second] - pixels
        iou = pixels / np.maximum(union, 1)
        is_same = segments.label[first] == segments.label[second]
        is_free = np.ones(len(segments.image), bool)
        self.kept = _partners(np.flatnonzero((iou > 0.5) & is_same), iou, overlaps, is_free)
        self.kept_iou = iou[self.kept]
        self.kept_place = first[self.kept]
        relabelled = _partners(np.flatnonzero((iou > 0.5) & ~is_same), iou, overlaps, is_free)
        self.relabelled_from = first[relabelled]
        self.relabelled_to = second[relabelled]
        self.lost = np.flatnonzero(is_free & ~segments.is_second)
        self.gained = np.flatnonzero(is_free & segments.is_second)

    def per_image(self, places: Ints) -> Ints:
        """Counts segments by image."""
        return np.bincount(self.segments.image[places], minlength=self.segments.num_images)

    def quality(self, *, num_labels: int) -> Floats:
        """Returns the PQ of each image: the mean over the labels that it has; nan without any."""
        segments, num_images = self.segments, self.segments.num_images
        key = segments.image * num_labels + segments.label
        keys, place = np.unique(key, return_inverse=True)
        # A match is a segment of each table, so each segment counts a half.
        halves = np.bincount(place, minlength=len(keys)) / 2
        ious = np.bincount(place[self.kept_place], self.kept_iou, minlength=len(keys))
        image = keys // num_labels
        total = np.bincount(image, ious / np.maximum(halves, 0.5), minlength=num_images)
        count = np.bincount(image, minlength=num_images)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _partners(candidates: Ints, iou: Floats, overlaps: RleOverlaps, is_free: Flags) -> Ints:
    """Chooses pairs whose segments are free, those of a higher IoU first; takes their segments."""
    one, two = overlaps.first[candidates], overlaps.second[candidates]
    candidates = candidates[is_free[one] & is_free[two]]
    one, two = overlaps.first[candidates], overlaps.second[candidates]
    # Where segments of a table share no pixel, a segment has one partner at most.
    if len(np.unique(one)) < len(one) or len(np.unique(two)) < len(two):
        chosen = []
        for pair in candidates[np.argsort(-iou[candidates], kind="stable")].tolist():
            ends = overlaps.first[pair], overlaps.second[pair]
            if is_free[ends[0]] and is_free[ends[1]]:
                is_free[list(ends)] = False
                chosen.append(pair)
        return np.array(sorted(chosen), np.int64)
    is_free[one] = False
    is_free[two] = False
    return candidates


class _Areas:
    """Pixels by image and pair of labels; the label after the last one is for no segment."""

    def __init__(
        self, segments: _Segments, overlaps: RleOverlaps, *, num_labels: int, num_images: int
    ) -> None:
        self.none, self.num_images = num_labels, num_images
        first, second, pixels = overlaps.first, overlaps.second, overlaps.pixels
        left = overlaps.areas.copy()
        np.subtract.at(left, first, pixels)
        np.subtract.at(left, second, pixels)
        none = np.full(len(segments.label), num_labels)
        self.image = np.concatenate([segments.image[first], segments.image])
        self.label_a = np.concatenate(
            [segments.label[first], np.where(segments.is_second, none, segments.label)]
        )
        self.label_b = np.concatenate(
            [segments.label[second], np.where(segments.is_second, segments.label, none)]
        )
        self.pixels = np.concatenate([pixels, left])
        self._segments = segments

    def replace_overlapping(self, pairs: PairedImages) -> None:
        """Counts the images anew in which segments of one table share pixels."""
        segments = self._segments
        text, offsets = text_of(segments.rle)
        shapes = measure_rles(
            text,
            offsets=offsets,
            images=2 * segments.image + segments.is_second,
            heights=segments.height,
            widths=segments.width,
        )
        images = np.unique(segments.image[shapes.shared > 0])
        is_left = ~np.isin(self.image, images)
        columns = (self.image, self.label_a, self.label_b, self.pixels)
        parts: list[tuple[Ints, ...]] = [tuple(column[is_left] for column in columns)]
        for image in images.tolist():
            size = int(pairs.heights[0][image]), int(pairs.widths[0][image])
            own = np.flatnonzero(segments.image == image)
            maps = [self._label_map(own[segments.is_second[own] == side], size) for side in (0, 1)]
            key, pixels = np.unique(maps[0] * (self.none + 1) + maps[1], return_counts=True)
            is_void = key == self.none * (self.none + 1) + self.none
            key, pixels = key[~is_void], pixels[~is_void]
            parts.append(
                (
                    np.full(len(key), image),
                    key // (self.none + 1),
                    key % (self.none + 1),
                    pixels,
                )
            )
        self.image, self.label_a, self.label_b, self.pixels = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )

    def _label_map(self, places: Ints, size: tuple[int, int]) -> Ints:
        labels = np.full(size, self.none, np.int64)
        for place in places[::-1].tolist():
            mask = decode_rle(self._segments.rle[place].as_py(), height=size[0], width=size[1])
            labels[mask] = self._segments.label[place]
        return labels

    @property
    def is_same(self) -> Flags:
        return self.label_a == self.label_b

    def same(self) -> Ints:
        """Returns the pixels of each image with the same label in both tables."""
        return self._per_image(self.is_same)

    def total(self) -> Ints:
        """Returns the pixels of each image with a segment in either table."""
        return self._per_image(np.ones(len(self.image), bool))

    def _per_image(self, chosen: Flags) -> Ints:
        found = np.bincount(self.image[chosen], self.pixels[chosen], minlength=self.num_images)
        return found.astype(np.int64)

    def largest_changes(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Returns images that have changes, and the labels and pixels of the largest of each."""
        chosen = ~self.is_same & (self.pixels > 0)
        base = self.none + 1
        key = (self.image[chosen] * base + self.label_a[chosen]) * base + self.label_b[chosen]
        keys, place = np.unique(key, return_inverse=True)
        pixels = np.bincount(place, self.pixels[chosen], minlength=len(keys)).astype(np.int64)
        image = keys // base**2
        order = np.lexsort((keys, -pixels, image))
        images, begins = np.unique(image[order], return_index=True)
        best = order[begins]
        return images, keys[best] // base % base, keys[best] % base, pixels[best]


def _rows(
    pairs: PairedImages, state: Ints, *, match: _Matches, area: _Areas, labels: CommonLabels
) -> pa.Table:
    is_compared = state == _CODES["both"]
    quality = match.quality(num_labels=len(labels.names))
    same, total = area.same(), area.total()
    share = np.where(total > 0, same / np.maximum(total, 1), np.nan)
    counts = {
        "kept": match.per_image(match.kept_place),
        "gained": match.per_image(match.gained),
        "lost": match.per_image(match.lost),
        "relabelled": match.per_image(match.relabelled_from),
    }
    counts["segments_a"] = counts["kept"] + counts["relabelled"] + counts["lost"]
    counts["segments_b"] = counts["kept"] + counts["relabelled"] + counts["gained"]
    images, label_from, label_to, pixels = area.largest_changes()
    names = pa.array([*labels.names, None], pa.string())
    count = len(state)
    texts: dict[str, pa.Array] = {}
    for name, label in (("change_from", label_from), ("change_to", label_to)):
        label_of = np.full(count, len(labels.names))
        label_of[images] = label
        texts[name] = names.take(pa.array(label_of))
    change = np.full(count, np.nan)
    change[images] = pixels / total[images]
    floats = {
        "pq": quality,
        "area_same_label": share,
        "disagreement": 1 - (quality + share) / 2,
        "change_share": change,
    }
    columns = {
        "image_id": pairs.image_ids,
        "state": pa.array(list(STATES)).take(pa.array(state)),
        **{name: pa.array(values, mask=~is_compared) for name, values in counts.items()},
        **{name: pa.array(values, mask=np.isnan(values)) for name, values in floats.items()},
        **texts,
    }
    return pa.table([columns[field.name] for field in AGREEMENT], AGREEMENT.names).cast(AGREEMENT)


def _sums(state: Ints, *, match: _Matches, area: _Areas, labels: CommonLabels) -> Sums:
    segments, base = match.segments, len(labels.names) + 1
    none = base - 1

    def changes(label_a: Ints, label_b: Ints, weights: Ints | None = None) -> Ints:
        counted = np.bincount(label_a * base + label_b, weights, minlength=base * base)
        return counted.astype(np.int64).reshape(base, base)

    label = segments.label
    void = np.full(len(label), none)
    return Sums(
        images={s: int(np.count_nonzero(state == code)) for s, code in _CODES.items()},
        iou=np.bincount(label[match.kept_place], match.kept_iou, minlength=none).astype(float),
        segments=(
            changes(label[match.kept_place], label[match.kept_place])
            + changes(label[match.relabelled_from], label[match.relabelled_to])
            + changes(label[match.lost], void[match.lost])
            + changes(void[match.gained], label[match.gained])
        ),
        pixels=changes(area.label_a, area.label_b, area.pixels),
    )

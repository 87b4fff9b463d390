"""Checks the rules on the rows of one unit: images, segments and masks must agree.

`tables.py` reads the rows and adds up the findings. The rules on files are there, those on plans
and on several units in `counts.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from maskformer import measure_rles
from pipeline.maintenance.compact.units import UnitRows
from pipeline.maintenance.verify.findings import Findings
from pipeline.table.store import SECOND_LABEL, TableSpec

_ROUNDING = 2e-6
"""Tolerance for shares and means that are float32 and were summed in another order."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class RowFiles:
    """Names of a unit's two files, for findings."""

    images: str
    segments: str


def check_rows(
    unit: UnitRows,
    *,
    files: RowFiles,
    spec: TableSpec,
    sample: float,
    findings: Findings,
) -> int:
    """Checks every row; returns the number of masks that were decoded.

    Args:
        sample: share of the images whose masks are decoded, always the same images.
    """
    images, segments = _Images(unit, files.images), _Segments(unit, files.segments)
    _check_images(images, unit_id=unit.unit_id, findings=findings)
    _check_segments(segments, images, spec=spec, findings=findings)
    _check_sums(segments, images, findings=findings)
    return _check_shapes(segments, images, spec=spec, sample=sample, findings=findings)


class _Rows:
    """Columns as arrays; null is replaced by a value that no valid row has."""

    def __init__(self, rows: pa.Table, file: str) -> None:
        self.rows, self.file = rows.combine_chunks(), file

    def __len__(self) -> int:
        return self.rows.num_rows

    def ints(self, name: str) -> Ints:
        return pc.fill_null(self.rows[name], -1).to_numpy().astype(np.int64)

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        column = self.rows[name].cast(pa.float64())
        return pc.fill_null(column, float("nan")).to_numpy()

    def is_null(self, name: str) -> Bools:
        return pc.is_null(self.rows[name]).to_numpy(zero_copy_only=False)

    def value(self, name: str, row: int) -> Any:
        return self.rows[name][row].as_py()

    def values(self, row: int, *names: str) -> str:
        return ", ".join(f"{name} {self.value(name, row)}" for name in names)


class _Images(_Rows):
    def __init__(self, unit: UnitRows, file: str) -> None:
        super().__init__(unit.images, file)
        self.ids = self.rows["image_id"]
        self.is_ok = pc.fill_null(pc.equal(self.rows["status"], "ok"), False).to_numpy(
            zero_copy_only=False
        )

    def place(self, row: int) -> str:
        return f"{self.file}, image {self.value('image_id', row)}"


class _Segments(_Rows):
    def __init__(self, unit: UnitRows, file: str) -> None:
        super().__init__(unit.segments, file)
        of_image = pc.index_in(self.rows["image_id"], value_set=unit.images["image_id"])
        self.image = pc.fill_null(of_image, -1).to_numpy().astype(np.int64)
        """The row of each segment's image, -1 if there is none."""

    def place(self, row: int) -> str:
        image, segment = self.value("image_id", row), self.value("segment_id", row)
        return f"{self.file}, image {image}, segment {segment}"


def _check_images(images: _Images, *, unit_id: str, findings: Findings) -> None:
    position = images.ints("position")
    same_unit = pc.fill_null(pc.equal(images.rows["unit_id"], unit_id), False)
    is_wrong = (position != np.arange(len(images))) | ~same_unit.to_numpy(zero_copy_only=False)
    findings.add_rows(
        "position",
        is_wrong | images.is_null("image_id"),
        place=images.place,
        found=lambda n: f"row {n} has position {position[n]}, unit {images.value('unit_id', n)}",
    )
    is_error = pc.fill_null(pc.equal(images.rows["status"], "error"), False).to_numpy(
        zero_copy_only=False
    )
    unexplained = images.is_null("error_class") | images.is_null("error_message")
    sized = (images.ints("height") > 0) & (images.ints("width") > 0)
    is_right_ok = images.is_ok & sized & images.is_null("error_class")
    findings.add_rows(
        "status",
        ~(is_right_ok | (is_error & ~unexplained)),
        place=images.place,
        found=lambda n: ", ".join(
            f"{name} {images.value(name, n)}"
            for name in ("status", "height", "width", "error_class")
        ),
    )


def _check_segments(
    segments: _Segments, images: _Images, *, spec: TableSpec, findings: Findings
) -> None:
    image, number = segments.image, segments.ints("segment_id")
    belongs = image >= 0
    belongs[belongs] = images.is_ok[image[belongs]]
    findings.add_rows(
        "belongs",
        ~belongs,
        place=segments.place,
        found=lambda n: "its image is in error" if image[n] >= 0 else "there is no such image",
    )
    goes_back = (image[1:] < image[:-1]) | ((image[1:] == image[:-1]) & (number[1:] < number[:-1]))
    findings.add_rows(
        "order",
        np.concatenate([np.zeros(min(1, len(image)), bool), goes_back]),
        place=segments.place,
        found=lambda n: f"it stands after {segments.place(n - 1).partition(', ')[2]}",
    )
    in_order = np.lexsort((number, image))
    expected = np.empty(len(image), np.int64)
    expected[in_order] = _ranks(image[in_order])
    findings.add_rows(
        "segment_id",
        belongs & (number != expected),
        place=segments.place,
        found=lambda n: f"it is number {expected[n]} of the image",
    )
    _check_labels(segments, spec=spec, findings=findings)
    score = segments.floats("score")
    findings.add_rows(
        "score",
        ~((score >= 0) & (score <= 1)),
        place=segments.place,
        found=lambda n: f"score is {score[n]}",
    )
    if spec.schema_version > 1:
        _check_second_labels(segments, spec=spec, findings=findings)


def _check_second_labels(segments: _Segments, *, spec: TableSpec, findings: Findings) -> None:
    """Checks the columns that tables of schema 1 do not have."""
    second, score = segments.ints("second_label_id"), segments.floats("second_score")
    is_known = (second >= 0) & (second < len(spec.labels))
    place = pa.array(np.where(is_known, second, len(spec.labels)))
    names = pa.array([*spec.labels, None]).take(place)
    same_name = pc.fill_null(pc.equal(segments.rows["second_label"], names), False)
    is_there = is_known & same_name.to_numpy(zero_copy_only=False) & (score >= 0) & (score <= 1)
    is_there &= second != segments.ints("label_id")
    is_absent = segments.is_null("second_label_id") & segments.is_null("second_label")
    is_absent &= segments.is_null("second_score")
    findings.add_rows(
        "second_label",
        ~(is_there | is_absent),
        place=segments.place,
        found=lambda n: segments.values(n, "label_id", *SECOND_LABEL),
    )


def _ranks(sorted_groups: Ints) -> Ints:
    """Returns 1, 2, … within each group."""
    count = len(sorted_groups)
    is_first = np.ones(count, bool)
    is_first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    starts = np.flatnonzero(is_first)
    return np.arange(count) - np.repeat(starts, np.diff(np.append(starts, count))) + 1


def _check_labels(segments: _Segments, *, spec: TableSpec, findings: Findings) -> None:
    label = segments.ints("label_id")
    is_known = (label >= 0) & (label < len(spec.labels))
    names = pa.array([*spec.labels, None]).take(
        pa.array(np.where(is_known, label, len(spec.labels)))
    )
    same_name = pc.fill_null(pc.equal(segments.rows["label"], names), False)
    expected = {
        "panoptic": ~np.isin(label, spec.label_ids_to_fuse or ()),
        "instance": np.ones(len(label), bool),
        "semantic": np.zeros(len(label), bool),
    }[spec.task]
    is_thing = pc.fill_null(segments.rows["is_thing"], False).to_numpy()
    is_wrong = ~same_name.to_numpy(zero_copy_only=False) | (is_thing != expected)
    findings.add_rows(
        "label",
        is_wrong | segments.is_null("is_thing"),
        place=segments.place,
        found=lambda n: segments.values(n, "label_id", "label", "is_thing"),
    )


def _check_sums(segments: _Segments, images: _Images, *, findings: Findings) -> None:
    """Checks the sums over each image's segments that its row holds."""
    there = segments.image >= 0
    of_image = segments.image[there]

    def sums(weights: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        return np.bincount(
            of_image, None if weights is None else weights[there], minlength=len(images)
        )

    counted, stated = sums(None), images.ints("num_segments")
    findings.add_rows(
        "num_segments",
        counted != stated,
        place=images.place,
        found=lambda n: f"num_segments is {stated[n]}, there are {counted[n]}",
    )
    pixels = images.ints("height") * images.ints("width")
    share = sums(segments.ints("area")) / np.maximum(pixels, 1)
    coverage = images.floats("coverage")
    is_right = np.where(images.is_ok, np.abs(coverage - share) <= _ROUNDING, np.isnan(coverage))
    findings.add_rows(
        "coverage",
        ~is_right,
        place=images.place,
        found=lambda n: f"coverage is {coverage[n]:.6f}, the areas sum to {share[n]:.6f}",
    )
    mean = sums(np.nan_to_num(segments.floats("score"))) / np.maximum(counted, 1)
    mean_score = images.floats("mean_score")
    is_right = np.where(counted > 0, np.abs(mean_score - mean) <= _ROUNDING, np.isnan(mean_score))
    findings.add_rows(
        "mean_score",
        ~is_right,
        place=images.place,
        found=lambda n: f"mean_score is {mean_score[n]:.6f}, the scores average {mean[n]:.6f}",
    )


def _check_shapes(
    segments: _Segments, images: _Images, *, spec: TableSpec, sample: float, findings: Findings
) -> int:
    heights, widths = segments.ints("height"), segments.ints("width")
    image = segments.image
    there = image >= 0
    is_other = np.zeros(len(segments), bool)
    for column, own in (("height", heights), ("width", widths)):
        is_other[there] |= own[there] != images.ints(column)[image[there]]
    findings.add_rows(
        "size",
        is_other,
        place=segments.place,
        found=lambda n: f"it is {heights[n]} × {widths[n]} (height × width)",
    )
    chosen = np.arange(len(segments))
    if sample < 1:
        is_chosen = np.array([_hash(image_id) < sample for image_id in images.ids.to_pylist()])
        chosen = np.flatnonzero(np.where(there, is_chosen[image], True))
    rles = pc.fill_null(segments.rows["rle"].take(pa.array(chosen)).cast(pa.large_string()), "")
    text, offsets = _text(rles)
    shapes = measure_rles(
        text,
        offsets=offsets,
        images=image[chosen],
        heights=heights[chosen],
        widths=widths[chosen],
    )

    def place(n: int) -> str:
        return segments.place(int(chosen[n]))

    findings.add_rows(
        "rle",
        ~shapes.is_valid,
        place=place,
        found=lambda n: (
            f"{rles[n].as_py()[:40]!r} is no mask of {heights[chosen[n]]} × "
            f"{widths[chosen[n]]} (height × width)"
        ),
    )
    area = segments.ints("area")[chosen]
    findings.add_rows(
        "area",
        shapes.is_valid & ((area != shapes.areas) | (area == 0)),
        place=place,
        found=lambda n: f"area is {area[n]}, the mask has {shapes.areas[n]} pixels",
    )
    sides = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
    boxes = np.stack([segments.ints(side)[chosen] for side in sides], 1)
    findings.add_rows(
        "box",
        shapes.is_valid & (boxes != shapes.boxes_xywh).any(1),
        place=place,
        found=lambda n: f"box is {boxes[n].tolist()}, the mask's {shapes.boxes_xywh[n].tolist()}",
    )
    if spec.task != "instance":
        findings.add_rows(
            "overlap",
            shapes.shared > 0,
            place=place,
            found=lambda n: f"{shapes.shared[n]} of its pixels are in segments before it",
        )
    return len(chosen)


def _hash(image_id: str) -> float:
    """Returns a number in [0, 1) that is the same each time."""
    digest = hashlib.blake2b(image_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _text(strings: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint8], Ints]:
    """Returns the characters of all strings, and the offsets of each and of the end."""
    if not len(strings):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    whole = pa.concat_arrays(strings.chunks)
    _, offsets, characters = whole.buffers()
    begins = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    if characters is None:
        return np.zeros(0, np.uint8), np.zeros(len(whole) + 1, np.int64)
    return np.frombuffer(characters, np.uint8), begins


def check_metadata(
    rows: pa.Table, *, file: str, expected: Mapping[str, str], findings: Findings
) -> None:
    """Checks the key-value metadata of a file."""
    found = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
    for name, value in expected.items():
        if found.get(name) != value:
            there = found.get(name, "nothing")
            findings.add("metadata", file, f"{name} is {there[:80]}, not {value[:80]}")

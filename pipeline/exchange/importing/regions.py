"""Turns the regions of an image into masks as run lengths, and settles where they overlap.

Segments of a table do not overlap, but for those of the task instance. Polygons are drawn as
pycocotools draws them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from maskformer import Runs, encode_segments, is_overlapping, painted, rle_runs
from pipeline.datasets.coco_segmentation import (
    SegmentationError,
    check_segmentation,
    segmentation_rle,
)
from pipeline.datasets.label_names import LabelNames
from pipeline.datasets.maps import decode_id_map
from pipeline.datasets.target import LabelError
from pipeline.exchange.box_masks import row_runs
from pipeline.exchange.cvat_runs import decode_cvat_runs
from pipeline.exchange.importing.annotations import Region
from pipeline.exchange.importing.grouping import MatchedImage
from pipeline.exchange.importing.label_maps import guided_map
from pipeline.exchange.label_studio_brush import decode_brush
from pipeline.reviews.revision import ReviewedSegment
from pipeline.storage import Storage, join


class UnusableImage(ValueError):
    """An image of which nothing can be taken; `rule` says what it breaks.

    Args:
        rule: the text under which findings are listed.
        detail: where and why.
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule, self.detail = rule, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnMask:
    """A mask of the file with its label's name."""

    label: str
    runs: Runs


@dataclass(frozen=True, kw_only=True)
class RegionReader:
    """Reads the masks of images."""

    labels: Mapping[str, str] | None
    """Names of the file's categories; None where regions have names themselves."""
    known_labels: Mapping[str, int]
    """Ids of the table's labels by name."""
    may_overlap: bool
    """True for a table of the task instance."""
    decides_overlaps: bool
    """True if a later region lies on top of those before it."""
    storage: Storage
    map_names: LabelNames | None
    """Names and values of label maps."""

    def masks(self, image: MatchedImage, *, before: Sequence[ReviewedSegment]) -> list[DrawnMask]:
        """Returns the masks of all regions that have a pixel.

        Args:
            before: the segments that the file was made of.

        Raises:
            UnusableImage: a region has an unknown label or no mask, or two overlap and may not.
        """
        drawn = []
        for number, region in enumerate(image.regions, start=1):
            if region.kind == "id_map":
                drawn += self._map_masks(region, image)
                continue
            if region.kind == "label_map":
                drawn += self._label_map_masks(region, image, before=before)
                continue
            runs = self._runs(region, number, image)
            drawn.append(DrawnMask(label=self._label(region.label), runs=runs))
        if self.may_overlap or not is_overlapping([mask.runs for mask in drawn]):
            return [mask for mask in drawn if len(mask.runs)]
        if not self.decides_overlaps:
            raise UnusableImage(
                "with masks that overlap, and nothing says which lies on top",
                _overlapping_pair(drawn, height=image.height),
            )
        ids = painted(
            [mask.runs for mask in drawn],
            range(1, len(drawn) + 1),
            height=image.height,
            width=image.width,
        )
        return _masks_of(ids, {number: mask.label for number, mask in enumerate(drawn, 1)})

    def is_same_at_a_glance(
        self, image: MatchedImage, labels_and_rles: Sequence[tuple[str, str]]
    ) -> bool:
        """Returns True if the file has these labels and run lengths, as text; nothing is decoded.

        Args:
            labels_and_rles: sorted.
        """
        if any(region.kind != "rle" for region in image.regions):
            return False
        start = f"[{image.height}, {image.width}]\n"
        of_file = []
        for region in image.regions:
            label = region.label if self.labels is None else self.labels.get(region.label)
            text = region.payload.decode(errors="replace")
            if label is None or not text.startswith(start):
                return False
            of_file.append((label, text[len(start) :]))
        return sorted(of_file) == labels_and_rles

    def shown(
        self, image: MatchedImage, *, before: Sequence[ReviewedSegment]
    ) -> dict[int, str] | None:
        """Returns the run lengths by segment_id that a map shows of segments that overlap.

        None where the file holds every segment whole.
        """
        has_map = any(region.kind in ("id_map", "label_map") for region in image.regions)
        if not self.may_overlap or not has_map:
            return None
        size = {"height": image.height, "width": image.width}
        runs = [rle_runs(each.rle, **size) for each in before]
        shapes = encode_segments(painted(runs, [each.segment_id for each in before], **size))
        return dict(zip(shapes.ids.tolist(), shapes.rles, strict=True))

    def _label(self, key: str) -> str:
        name = key if self.labels is None else self.labels.get(key)
        if name is None:
            raise UnusableImage("with a category that the file does not list", f"id {key}")
        if name not in self.known_labels:
            raise UnusableImage("with a label that the table does not have", name)
        return name

    def _runs(self, region: Region, number: int, image: MatchedImage) -> Runs:
        size = {"height": image.height, "width": image.width}
        where = f"region {region.name or number}"
        try:
            if region.kind == "rle":
                return _coco_runs(region.payload, **size)
            if region.kind == "polygons":
                check_segmentation(region.payload, **size)
                return rle_runs(segmentation_rle(region.payload, **size), **size)
            if region.kind == "cvat":
                return _cvat_runs(region.payload, **size)
            if region.kind == "brush":
                return _mask_runs(decode_brush(region.payload, **size))
        except SegmentationError as error:
            steps = "".join(f"[{step}]" for step in error.path)
            raise UnusableImage(_NO_MASK, f"{where}: segmentation{steps} {error.rule}") from error
        except ValueError as error:
            raise UnusableImage(_NO_MASK, f"{where}: {error}") from error
        reason = region.payload.decode(errors="replace")
        raise UnusableImage(_NO_MASK, f"{where} {reason}")

    def _map_masks(self, region: Region, image: MatchedImage) -> list[DrawnMask]:
        """Reads COCO's panoptic PNG, of which the JSON describes every segment."""
        content = json.loads(region.payload)
        if content["is_twice"]:
            raise UnusableImage(_NO_MAP, f"{region.name}: two segments have one id")
        labels = {int(key): self._label(name) for key, name in content["categories"].items()}
        ids = read_map(
            join(content["folder"], *content["name"].split("/")),
            storage=self.storage,
            described=labels,
            image=image,
        )
        shapes = encode_segments(ids)
        found = {*shapes.ids.tolist()}
        if undescribed := sorted(found - labels.keys()):
            raise UnusableImage(
                _NO_MAP, f"{region.name}: id {undescribed[0]} of the map is not in segments_info"
            )
        if lacking := sorted(labels.keys() - found):
            raise UnusableImage(
                _NO_MAP, f"{region.name}: segment {lacking[0]} has no pixel in the map"
            )
        return _masks_of(ids, labels)

    def _label_map_masks(
        self, region: Region, image: MatchedImage, *, before: Sequence[ReviewedSegment]
    ) -> list[DrawnMask]:
        assert self.map_names is not None, "a reader of label maps comes with names"
        uri = region.payload.decode()
        try:
            target = self.map_names.values.target(
                self.storage.read(uri), labels=self.map_names.labels, source=uri
            )
        except LabelError as error:
            raise UnusableImage(_NO_MAP, str(error)) from error
        check_size(target.ids, image=image, name=uri)
        names = {
            each.id: self._label(self.map_names.labels.names[each.label_id])
            for each in target.segments
        }
        return _masks_of(*guided_map(target.ids.astype(np.int32), names, before))


_NO_MASK = "with a region that is no mask"
_NO_MAP = "with a map that does not fit its description"


def read_map(
    uri: str, *, storage: Storage, described: Mapping[int, str], image: MatchedImage
) -> Integer[np.ndarray, "height width"]:
    """Reads a PNG of segment ids.

    Raises:
        UnusableImage: it is not there, no such map, or of another size.
    """
    try:
        ids = decode_id_map(storage.read(uri), source=uri, described=described)
    except FileNotFoundError:
        raise UnusableImage("without its map", f"there is no file {uri}") from None
    except LabelError as error:
        raise UnusableImage(_NO_MAP, str(error)) from error
    check_size(ids, image=image, name=uri)
    return ids


def check_size(ids: np.ndarray, *, image: MatchedImage, name: str) -> None:
    """Raises UnusableImage for a map of another size than the image's."""
    if ids.shape != (image.height, image.width):
        raise UnusableImage(
            "of another size",
            f"{name} has {ids.shape[0]} x {ids.shape[1]}, in the table {image.height} x "
            f"{image.width} (height x width)",
        )


def _masks_of(
    ids: Integer[np.ndarray, "height width"], labels: Mapping[int, str]
) -> list[DrawnMask]:
    height, width = ids.shape
    shapes = encode_segments(ids)
    return [
        DrawnMask(label=labels[segment_id], runs=rle_runs(rle, height=height, width=width))
        for segment_id, rle in zip(shapes.ids.tolist(), shapes.rles, strict=True)
    ]


def _coco_runs(payload: bytes, *, height: int, width: int) -> Runs:
    size, _, counts = payload.partition(b"\n")
    if size != f"[{height}, {width}]".encode():
        raise ValueError(
            f"size of its rle must be [{height}, {width}], the image's height and width, got "
            f"{size.decode()[:40]}"
        )
    return rle_runs(counts.decode(errors="replace"), height=height, width=width)


def _cvat_runs(payload: bytes, *, height: int, width: int) -> Runs:
    shape = json.loads(payload)
    left, top, box_width, box_height = shape["box"]
    is_inside = 0 <= left < left + box_width <= width and 0 <= top < top + box_height <= height
    if not is_inside:
        raise ValueError(
            f"its box must lie in the image of {width}x{height}, got left {left}, top {top}, "
            f"{box_width}x{box_height}"
        )
    mask = decode_cvat_runs(shape["rle"], box_width=box_width, box_height=box_height)
    # Along the columns: the same as along the rows of the mask turned over.
    return row_runs(mask.T, left=top, top=left, width=height)


def _mask_runs(mask: Bool[np.ndarray, "height width"]) -> Runs:
    return row_runs(mask.T, left=0, top=0, width=len(mask))


def _overlapping_pair(masks: Sequence[DrawnMask], *, height: int) -> str:
    """Names the labels of two masks that share pixels, and one such pixel."""
    runs = np.concatenate([mask.runs for mask in masks])
    owners = np.repeat(np.arange(len(masks)), [len(mask.runs) for mask in masks])
    order = runs[:, 0].argsort(kind="stable")
    runs, owners = runs[order], owners[order]
    ends = np.maximum.accumulate(runs[:, 1])
    later = int(np.flatnonzero(runs[1:, 0] < ends[:-1])[0]) + 1
    earlier = int(np.flatnonzero(runs[:later, 1] == ends[later - 1])[-1])
    x, y = divmod(int(runs[later, 0]), height)
    labels = [masks[owners[at]].label for at in (earlier, later)]
    return f"{labels[0]} and {labels[1]} at x {x}, y {y}"

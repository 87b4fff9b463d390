"""Instances of one picture in any of its forms, as masks in COCO's RLE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask as coco

from maskformer.cpu.segment_shapes import encode_segments
from maskformer.metrics.maps import (
    LabelledSegments,
    Role,
    crowd_flags,
    segment_infos,
    segment_labels,
)

HeightWidth = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Masks with what is known of each; `size` is None where there is no mask to tell it."""

    size: HeightWidth | None
    rles: list[dict[str, Any]]
    labels: Int64[np.ndarray, " instances"]
    scores: Float64[np.ndarray, " instances"]
    """0 in a target."""
    areas: Float64[np.ndarray, " instances"]
    is_crowd: Bool[np.ndarray, " instances"]

    @classmethod
    def of(cls, picture: Mapping[str, Any], *, num_labels: int, role: Role) -> "Instances":
        """Reads a result of `post_process_instance_segmentation`, or a truth like it."""
        infos = segment_infos(picture, role=role)
        form = picture["segmentation"]
        if hasattr(form, "detach"):
            form = form.detach().cpu().numpy()
        size: HeightWidth | None
        if isinstance(form, list | tuple) and all(isinstance(item, Mapping) for item in form):
            rles, size = _from_rles(form, role=role)
        elif np.ndim(form) == 3:
            rles, size = _from_stack(np.asarray(form))
        else:
            segments = LabelledSegments.of(picture, num_labels=num_labels, role=role)
            rles, size = _from_map(segments)
        if len(rles) != len(infos):
            raise ValueError(
                f"each mask has a row in segments_info, the {role} has {len(rles)} masks and "
                f"{len(infos)} rows"
            )
        return cls(
            size=size,
            rles=rles,
            labels=segment_labels(infos, num_labels=num_labels, role=role),
            scores=_scores(infos) if role == "prediction" else np.zeros(len(infos)),
            areas=_areas(infos, rles),
            is_crowd=crowd_flags(infos),
        )

    def __getitem__(self, places: Int64[np.ndarray, " chosen"]) -> "Instances":
        return Instances(
            size=self.size,
            rles=[self.rles[place] for place in places.tolist()],
            labels=self.labels[places],
            scores=self.scores[places],
            areas=self.areas[places],
            is_crowd=self.is_crowd[places],
        )


Encoded = tuple[list[dict[str, Any]], HeightWidth]


def _from_rles(
    form: Sequence[Mapping[str, Any]], *, role: Role
) -> tuple[list[dict[str, Any]], HeightWidth | None]:
    sizes = sorted({(int(item["size"][0]), int(item["size"][1])) for item in form})
    if len(sizes) > 1:
        raise ValueError(
            f"all masks of a picture have its size, the {role}'s have {sizes[:10]}; COCO's RLE is "
            "of the whole image"
        )
    return [dict(item) for item in form], sizes[0] if sizes else None


def _from_stack(form: np.ndarray) -> Encoded:
    # pycocotools reads bytes, column by column, masks last.
    masks = np.asfortranarray((form != 0).astype(np.uint8).transpose(1, 2, 0))
    return coco.encode(masks), (form.shape[1], form.shape[2])


def _from_map(segments: LabelledSegments) -> Encoded:
    height, width = segments.places.shape
    size = [height, width]
    # Places count from 1 without a gap, so that masks come in the order of segments_info.
    counts = encode_segments(segments.places).rles
    return [{"size": size, "counts": rle.encode("ascii")} for rle in counts], (height, width)


def _scores(infos: Sequence[Mapping[str, Any]]) -> Float64[np.ndarray, " instances"]:
    missing = [info.get("id") for info in infos if info.get("score") is None]
    if missing:
        raise ValueError(
            f"each predicted instance has a score, there is none for ids {missing[:10]}; a truth "
            "goes second, as the target"
        )
    return np.array([float(info["score"]) for info in infos])


def _areas(
    infos: Sequence[Mapping[str, Any]], rles: list[dict[str, Any]]
) -> Float64[np.ndarray, " instances"]:
    """COCO's truths bring the area of their outline, which may differ from their mask's pixels."""
    # One by one: pycocotools counts the masks of a list in a byte.
    areas = [info.get("area", coco.area(rle)) for info, rle in zip(infos, rles, strict=True)]
    return np.array(areas, np.float64)

"""Targets: where the labelled masks of an image lie, kept small until pixels are compared.

Takes what the image processor or a data set gives: a stack of masks; one map of ids for the whole
image, smaller by as many times as the image has masks; or where masks overlap, their runs.
`matcher.py` and `loss.py` expand the masks that they look at, at the size at which they look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Int, Integer, Shaped
from torch import Tensor

from maskformer.criterion.mask_runs import MaskRuns


@dataclass(frozen=True, kw_only=True)
class IdMap:
    """The masks of one image as one map: mask `i` is where `map` holds `ids[i]`.

    Ids are at least 0, each stands once in `ids`, and pixels of any other value are in no mask.
    """

    map: Integer[Tensor, "height width"]
    ids: Integer[Tensor, " masks"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the equivalent stack of masks: (masks, height, width)."""
        height, width = self.map.shape
        return len(self.ids), height, width

    def each(self, change: Callable[[Tensor], Tensor]) -> "IdMap":
        """Applies a change to each tensor, such as a move to a device."""
        return IdMap(map=change(self.map), ids=change(self.ids))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "IdMap":
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))


MaskLabels: TypeAlias = Shaped[Tensor, "_ _ _"] | IdMap | MaskRuns
"""A stack of masks [masks, height, width], where anything but 0 is in the mask, or a small form."""


def expand_masks(
    mask_labels: MaskLabels, *, chosen: Int[Tensor, " chosen"] | None = None
) -> Bool[Tensor, "_ _ _"]:
    """The masks themselves, all or those chosen by index."""
    if isinstance(mask_labels, MaskRuns):
        return mask_labels.expanded(chosen)
    if isinstance(mask_labels, IdMap):
        ids = mask_labels.ids if chosen is None else mask_labels.ids[chosen]
        return mask_labels.map == ids[:, None, None]
    masks = mask_labels if chosen is None else mask_labels[chosen]
    return masks if masks.dtype == torch.bool else masks != 0


def sample_labels(mask_labels: MaskLabels, *, size: tuple[int, int]) -> MaskLabels:
    """Resizes the masks to another (height, width), by nearest neighbour."""
    if isinstance(mask_labels, IdMap):
        return IdMap(map=sample_plane(mask_labels.map, size=size), ids=mask_labels.ids)
    if isinstance(mask_labels, MaskRuns):
        _, height, width = mask_labels.shape
        device = mask_labels.rows.device
        return mask_labels.sampled(
            _nearest(height, count=size[0], device=device),
            _nearest(width, count=size[1], device=device),
        )
    return sample_plane(mask_labels, size=size)


def sample_plane(
    plane: Shaped[Tensor, "*masks height width"], *, size: tuple[int, int]
) -> Shaped[Tensor, "*masks sampled_height sampled_width"]:
    """Reads only the pixels it keeps, whatever their type: torch's interpolation wants floats."""
    rows = _nearest(plane.shape[-2], count=size[0], device=plane.device)
    columns = _nearest(plane.shape[-1], count=size[1], device=plane.device)
    return plane[..., rows[:, None], columns]


def pad_to_batch(
    mask_labels: Sequence[MaskLabels], *, valid: Sequence[Bool[Tensor, "_ _"]] | None
) -> tuple[list[MaskLabels], list[Tensor | None]]:
    """Targets of one height and width, those of the network's input, and which pixels count.

    Padding is in no mask. It counts as background, as published, unless `valid` is given.
    """
    heights, widths = zip(*(labels.shape[-2:] for labels in mask_labels), strict=True)
    size = (max(heights), max(widths))
    padded = [_pad_labels(labels, size=size) for labels in mask_labels]
    if valid is None:
        return padded, [None] * len(padded)
    _check_valid(valid, mask_labels=mask_labels)
    return padded, [_pad_plane(plane, size=size, value=False) for plane in valid]


def _nearest(length: int, *, count: int, device: torch.device) -> Int[Tensor, " count"]:
    """The positions that torch's nearest interpolation would read, its rounding included."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    return F.interpolate(positions[None, None], size=count, mode="nearest")[0, 0].long()


def _pad_labels(mask_labels: MaskLabels, *, size: tuple[int, int]) -> MaskLabels:
    if isinstance(mask_labels, Tensor):
        return _pad_plane(mask_labels, size=size, value=0)
    if isinstance(mask_labels, MaskRuns):
        return mask_labels.padded(size)
    if mask_labels.shape[1:] == size:
        return mask_labels
    # -1 is no id; int32, since a map of bytes has no -1.
    return IdMap(map=_pad_plane(mask_labels.map.int(), size=size, value=-1), ids=mask_labels.ids)


def _check_valid(valid: Sequence[Tensor], *, mask_labels: Sequence[MaskLabels]) -> None:
    for image, (plane, labels) in enumerate(zip(valid, mask_labels, strict=True)):
        if plane.shape != labels.shape[-2:]:
            raise ValueError(
                f"valid must be of the size of the masks: image {image} of the batch has "
                f"{tuple(plane.shape)} for masks of {tuple(labels.shape[-2:])}; "
                "resize both by the same rule"
            )


def _pad_plane(
    plane: Shaped[Tensor, "*masks height width"], *, size: tuple[int, int], value: int
) -> Shaped[Tensor, "*masks padded_height padded_width"]:
    """Pads at the bottom and on the right, as the image processor pads images."""
    below, right = size[0] - plane.shape[-2], size[1] - plane.shape[-1]
    return F.pad(plane, (0, right, 0, below), value=value) if below or right else plane

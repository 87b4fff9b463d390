"""The arg-max of the masks of a whole batch, on its device and without a wait for it.

Does for a batch what `mask_argmax.py` does for an image: which of an image's maps is highest at
each pixel after resizing, and how large each map is. On CUDA a kernel of `batch_kernels.py` visits
the kept maps of each image alone. Plain operations, for devices without Triton, visit all of them:
which are kept is known to the device only. Each value is computed by the operations of
`bilinear.py`, so that both give what an image alone gives.
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int64, Integer
from torch import Tensor

from maskformer.device_copies import copied_to
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes
from maskformer.postprocessing.geometry import Geometry

_PLAIN_BYTES = 1 << 30
"""Of what plain operations hold at once; some eight numbers for each pixel."""


@dataclass(frozen=True, kw_only=True)
class KeptMaps:
    """The maps of a batch, and which of them take part, those of an image first."""

    maps: Float[Tensor, "batch planes height width"]
    """Probabilities times scores; where images are padded, logits."""

    order: Int64[Tensor, "batch maps"]
    """The kept maps' places among the planes; then any others."""

    num_kept: Int64[Tensor, " batch"]
    scores: Float32[Tensor, "batch maps"]
    """Of the maps in their order: factors of probabilities, where maps are logits."""

    thresholds: Float32[Tensor, "batch maps"]
    """A pixel belongs to a map's own area where the map is at least this."""

    @property
    def is_kept(self) -> Bool[Tensor, "batch maps"]:
        numbers = torch.arange(self.order.shape[1], device=self.order.device)
        return numbers < self.num_kept[:, None]


@dataclass(frozen=True, kw_only=True)
class BatchArgmax:
    """The arg-max of each image's maps, and how large each map is."""

    winner: Int16[Tensor, " pixels"]
    """The number of the highest map in the order of maps, for the pixels of all images."""

    won: Integer[Tensor, "batch maps"]
    """The number of pixels at which each map is the highest."""

    areas: Integer[Tensor, "batch maps"]
    """How many pixels of each map are at or above its threshold."""


@dataclass(frozen=True, kw_only=True)
class BatchShares:
    """The highest of all maps at each pixel, and each map's share in the sum of all maps."""

    winner: Int16[Tensor, " pixels"]
    won: Integer[Tensor, "batch maps"]
    share_sums: Float64[Tensor, "batch maps"]
    """The sum, over the pixels at which a map is the highest, of its share there."""


def has_kernels(device: torch.device) -> bool:
    """Returns whether kernels can run on the device: on CUDA, where Triton is installed."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def argmax_of_batch(
    kept: KeptMaps, geometry: BatchGeometry, sizes: DeviceSizes, *, uses_kernels: bool
) -> BatchArgmax:
    """Returns the arg-max of each image's kept maps, resized to the image's target size."""
    if uses_kernels:
        return _by_kernel(kept, geometry, sizes)
    return _by_plain_operations(kept, geometry)


def shares_of_batch(
    scores: Float32[Tensor, "batch labels height width"],
    geometry: BatchGeometry,
    sizes: DeviceSizes,
) -> BatchShares:
    """Returns the highest scores of images that are not padded, by a kernel."""
    batch_size, num_labels = scores.shape[:2]
    counts = torch.full((batch_size,), num_labels, dtype=torch.int64, device=scores.device)
    share_sums = torch.zeros(batch_size, num_labels, dtype=torch.float64, device=scores.device)
    totals = scores.sum(1)
    # The kernel takes thresholds too, which labels do not have and it does not read here.
    unused = totals
    winner, won, _ = _launch(
        scores,
        geometry,
        sizes,
        counts=counts,
        num_maps=num_labels,
        arguments=(unused, unused, unused, totals),
        share_sums=share_sums,
    )
    return BatchShares(winner=winner, won=won, share_sums=share_sums)


def _by_kernel(kept: KeptMaps, geometry: BatchGeometry, sizes: DeviceSizes) -> BatchArgmax:
    unused = kept.scores
    winner, won, areas = _launch(
        kept.maps,
        geometry,
        sizes,
        counts=kept.num_kept,
        num_maps=kept.order.shape[1],
        arguments=(kept.order, kept.scores, kept.thresholds, unused),
        share_sums=None,
    )
    return BatchArgmax(winner=winner, won=won, areas=areas)


def _launch(
    maps: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    counts: Int64[Tensor, " batch"],
    num_maps: int,
    arguments: tuple[Tensor, Tensor, Tensor, Tensor],
    share_sums: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the kernel; returns winners, pixels won and own areas."""
    from maskformer.postprocessing import batch_kernels

    batch_size, num_planes, map_height, map_width = maps.shape
    device = maps.device
    order, weights, thresholds, totals = (each.contiguous() for each in arguments)
    winner = torch.empty(int(geometry.pixels.sum()), dtype=torch.int16, device=device)
    won, areas = torch.zeros(2, batch_size, num_maps, dtype=torch.int32, device=device).unbind()
    kernel: Any = batch_kernels.resized_argmax
    with on_device(device):
        kernel[programs(geometry)](
            maps.contiguous(),
            order,
            counts,
            weights,
            thresholds,
            totals,
            sizes.sizes,
            sizes.scales,
            winner,
            won,
            areas,
            totals if share_sums is None else share_sums,
            map_height,
            map_width,
            num_planes,
            num_columns=num_maps,
            is_padded=geometry.is_padded,
            has_shares=share_sums is not None,
            block=batch_kernels.BLOCK,
            **batch_kernels.OPTIONS,
        )
    return winner, won, areas


def programs(geometry: BatchGeometry) -> tuple[int, int]:
    """Returns how many programs of a kernel the largest image takes, and the images."""
    from maskformer.postprocessing.batch_kernels import BLOCK

    return math.ceil(int(geometry.pixels.max()) / BLOCK), len(geometry.images)


def on_device(device: torch.device) -> "torch.cuda.device":
    """Returns a context in which kernels are launched on the device."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def _by_plain_operations(kept: KeptMaps, geometry: BatchGeometry) -> BatchArgmax:
    """Goes through the images of one size at once, and through their maps one by one."""
    batch_size, num_maps = kept.order.shape
    device = kept.maps.device
    winners: list[Tensor | None] = [None] * batch_size
    won = torch.zeros(batch_size, num_maps, dtype=torch.int64, device=device)
    areas = torch.zeros_like(won)
    for indices, at, image in plain_groups(geometry, device):
        leader, own = _leader_of_group(kept, at, image)
        by_column = leader.transpose(1, 2).flatten(1)
        numbers = by_column.long()
        won.index_add_(
            0,
            at,
            torch.zeros_like(won[: len(indices)]).scatter_add_(
                1, numbers, torch.ones_like(numbers)
            ),
        )
        areas.index_add_(0, at, own)
        for index, pixels in zip(indices, by_column, strict=True):
            winners[index] = pixels
    in_order = [each for each in winners if each is not None]
    return BatchArgmax(winner=torch.cat(in_order), won=won * kept.is_kept, areas=areas)


def plain_groups(
    geometry: BatchGeometry, device: torch.device
) -> Iterator[tuple[list[int], Int64[Tensor, " group"], Geometry]]:
    """Yields the numbers of images of one size, as many as plain operations take at once.

    For the host, and for the device.
    """
    for group in geometry.groups:
        image = geometry.images[group[0]]
        at_once = max(1, _PLAIN_BYTES // (32 * image.pixels_per_mask))
        for start in range(0, len(group), at_once):
            indices = group[start : start + at_once]
            yield indices, copied_to(device, torch.tensor(indices)), image


def _leader_of_group(
    kept: KeptMaps, at: Int64[Tensor, " group"], image: Geometry
) -> tuple[Int16[Tensor, "group height width"], Int64[Tensor, "group maps"]]:
    """Returns the highest map of images of one size at each pixel, and the maps' own areas."""
    order, scores, thresholds, is_kept = (
        each.index_select(0, at)
        for each in (kept.order, kept.scores, kept.thresholds, kept.is_kept)
    )
    shape = (len(at), *image.target_size)
    highest = torch.full(shape, -math.inf, device=at.device)
    leader = torch.zeros(shape, dtype=torch.int16, device=at.device)
    areas = []
    for number in range(order.shape[1]):
        maps = kept.maps[at, order[:, number]].float()
        values = image.resized(maps)
        if image.image_size is not None:
            values = values.sigmoid_().mul_(scores[:, number, None, None])
        counts = is_kept[:, number, None, None]
        areas.append(((values >= thresholds[:, number, None, None]) & counts).sum((1, 2)))
        leads = (values > highest) & counts
        highest = torch.where(leads, values, highest)
        leader.masked_fill_(leads, number)
    return leader, torch.stack(areas, 1)


def by_columns(label_maps: Sequence[Integer[Tensor, "_ _"]]) -> Int16[Tensor, " pixels"]:
    """Joins maps of numbers to the row of all pixels."""
    return torch.cat([each.T.flatten() for each in label_maps]).to(torch.int16)

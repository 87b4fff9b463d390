"""Collates samples of several sizes into one batch of the network's inputs, on its device.

Samples come from `samples.py` as bytes, which travel cheaply; `loop.py` takes the batches. Pixels
are normalised on the device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from maskformer import IdMap, MaskFormerImageProcessor, MaskRuns


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """An augmented image with its targets, not yet normalised."""

    image_id: str
    pixels: UInt8[Tensor, "3 height width"]
    """RGB."""
    targets: IdMap | MaskRuns
    """Masks of the pixels' size; 0 in a map is in no mask."""
    class_labels: Int64[Tensor, " masks"]
    """The label of each mask."""
    valid: Bool[Tensor, "height width"] | None
    """False for ignored pixels; None where none are ignored."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The model's inputs for one or more images."""

    image_ids: list[str]
    pixel_values: Float32[Tensor, "batch 3 height width"]
    """Normalised; the padding below and to the right is 0."""
    pixel_mask: Bool[Tensor, "batch height width"]
    """True in the image, False in the padding."""
    mask_labels: list[IdMap | MaskRuns]
    """Masks of the padded size. Padding is in no mask."""
    class_labels: list[Tensor]
    valid: list[Tensor] | None = None
    """Valid pixels of each image; None where all pixels count, including padding."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies a change to each tensor, such as a move to a device."""
        return Batch(
            image_ids=self.image_ids,
            pixel_values=change(self.pixel_values),
            pixel_mask=change(self.pixel_mask),
            mask_labels=[masks.each(change) for masks in self.mask_labels],
            class_labels=[change(labels) for labels in self.class_labels],
            valid=None if self.valid is None else [change(plane) for plane in self.valid],
        )

    def to(self, device: torch.device | str) -> "Batch":
        return self.each(lambda tensor: tensor.to(device))


def collate(
    samples: Sequence[TrainingSample],
    *,
    processor: MaskFormerImageProcessor,
    device: torch.device | str = "cpu",
    padded_size: tuple[int, int] | None = None,
    multiple: int = 1,
) -> Batch:
    """Collates samples to one batch, padded to the largest of them and the processor's divisor.

    Args:
        padded_size: (height, width) to pad to at least, so that a batch's size does not depend on
            its samples.
        multiple: both sides of a batch are multiples of it too, so that batches have few sizes.
    """
    size = _padded_size(
        samples, processor=processor, at_least=padded_size or (1, 1), multiple=multiple
    )
    device = torch.device(device)
    sizes = [(sample.pixels.shape[1], sample.pixels.shape[2]) for sample in samples]
    # Copies from pinned memory run while the host goes on.
    pinned = device.type == "cuda"
    pixels = torch.zeros((len(samples), *size, 3), dtype=torch.uint8, pin_memory=pinned)
    mask = torch.zeros((len(samples), *size), dtype=torch.bool, pin_memory=pinned)
    for image, (sample, (height, width)) in enumerate(zip(samples, sizes, strict=True)):
        pixels[image, :height, :width] = sample.pixels.permute(1, 2, 0)
        mask[image, :height, :width] = True

    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.pin_memory() if pinned else tensor
        return tensor.to(device, non_blocking=True)

    valid = None
    if samples[0].valid is not None:
        planes = [_padded(s.valid, size=size) for s in samples if s.valid is not None]
        valid = [moved(plane) for plane in planes]
    return Batch(
        image_ids=[sample.image_id for sample in samples],
        pixel_values=processor.normalize(
            pixels.to(device, non_blocking=True), image_sizes=sizes
        ).contiguous(memory_format=torch.channels_last),
        pixel_mask=mask.to(device, non_blocking=True),
        mask_labels=[_padded_targets(s.targets, size=size).each(moved) for s in samples],
        class_labels=[moved(sample.class_labels) for sample in samples],
        valid=valid,
    )


def _padded_size(
    samples: Sequence[TrainingSample],
    *,
    processor: MaskFormerImageProcessor,
    at_least: tuple[int, int],
    multiple: int,
) -> tuple[int, int]:
    largest = [max(sample.pixels.shape[side] for sample in samples) for side in (1, 2)]
    size = (max(largest[0], at_least[0]), max(largest[1], at_least[1]))
    # Rounded up under either resize rule: training pads images and never stretches them.
    divisor = math.lcm(max(processor.size_divisor, 1), multiple)
    size = (-(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor)
    return processor.padded_size(size)


def _padded_targets(targets: IdMap | MaskRuns, *, size: tuple[int, int]) -> IdMap | MaskRuns:
    if isinstance(targets, MaskRuns):
        return targets.padded(size)
    return replace(targets, map=_padded(targets.map, size=size))


def _padded(plane: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Pads a plane with 0, which is no mask, or not valid."""
    if plane.shape == size:
        return plane
    padded = plane.new_zeros(size)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    return padded

"""Batches: samples of several sizes to one batch of the network's inputs, on its device.

Takes samples of `samples.py`, which are bytes so that they travel cheaply; `loop.py` takes the
batches. Pixels are normalised on the device that uses them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from maskformer import IdMap, MaskFormerImageProcessor, MaskRuns


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as the network learns from it, augmented and not yet normalised."""

    image_id: str
    pixels: UInt8[Tensor, "3 height width"]
    """RGB."""
    targets: IdMap | MaskRuns
    """Of the pixels' size; 0 of a map is in no mask."""
    class_labels: Int64[Tensor, " masks"]
    """The label of each mask."""
    valid: Bool[Tensor, "height width"] | None = None
    """False where pixels count for nothing; None where all count."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the model is called with, for one or more images."""

    image_ids: list[str]
    pixel_values: Float32[Tensor, "batch 3 height width"]
    """Normalised, and 0 in the padding below and to the right."""
    pixel_mask: Bool[Tensor, "batch height width"]
    """True where there is image."""
    mask_labels: list[IdMap | MaskRuns]
    """Of the padded size. Padding is in no mask."""
    class_labels: list[Tensor]
    valid: list[Tensor] | None = None
    """By image; None where all pixels count, those of the padding too."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            pixel_values=moved(self.pixel_values),
            pixel_mask=moved(self.pixel_mask),
            mask_labels=[m.to(device, non_blocking=non_blocking) for m in self.mask_labels],
            class_labels=[moved(labels) for labels in self.class_labels],
            valid=None if self.valid is None else [moved(plane) for plane in self.valid],
        )

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU copies by itself."""
        return replace(
            self,
            pixel_values=self.pixel_values.pin_memory(),
            pixel_mask=self.pixel_mask.pin_memory(),
            mask_labels=[masks.each(Tensor.pin_memory) for masks in self.mask_labels],
            class_labels=[labels.pin_memory() for labels in self.class_labels],
            valid=None if self.valid is None else [plane.pin_memory() for plane in self.valid],
        )


def collate(
    samples: Sequence[Sample],
    *,
    processor: MaskFormerImageProcessor,
    device: torch.device | str = "cpu",
    padded_size: tuple[int, int] | None = None,
) -> Batch:
    """The samples as one batch, padded to the largest of them and to the processor's divisor.

    Args:
        padded_size: (height, width) to pad to at least, so that a batch's size does not depend on
            which samples share it.
    """
    size = _padded_size(samples, processor=processor, at_least=padded_size or (1, 1))
    device = torch.device(device)
    sizes = [(sample.pixels.shape[1], sample.pixels.shape[2]) for sample in samples]
    # From pinned memory the copies run while the host goes on.
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
    samples: Sequence[Sample], *, processor: MaskFormerImageProcessor, at_least: tuple[int, int]
) -> tuple[int, int]:
    largest = [max(sample.pixels.shape[side] for sample in samples) for side in (1, 2)]
    size = (max(largest[0], at_least[0]), max(largest[1], at_least[1]))
    # Under either resize rule: an image whose sides are no multiple is not stretched in training.
    divisor = max(processor.size_divisor, 1)
    size = (-(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor)
    return processor.padded_size(size)


def _padded_targets(targets: IdMap | MaskRuns, *, size: tuple[int, int]) -> IdMap | MaskRuns:
    if isinstance(targets, MaskRuns):
        return targets.padded(size)
    return replace(targets, map=_padded(targets.map, size=size))


def _padded(plane: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Padded with 0: no mask, or not valid."""
    if plane.shape == size:
        return plane
    padded = plane.new_zeros(size)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    return padded

"""What the model says of a picture: of a whole image, of it in another size or mirrored, of a part.

`test_time.py` and `windows.py` look at an image in several ways and put together what they see.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.postprocessing.geometry import Crop, HeightWidth
from maskformer.postprocessing.segmentation import (
    Segmentation,
    keep_panoptic,
    panoptic_segmentation,
    semantic_score_crop,
)


@dataclass(frozen=True, kw_only=True)
class PanopticRule:
    """When a query becomes a segment; see `panoptic_segmentation`."""

    threshold: float = 0.5
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8
    label_ids_to_fuse: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class View:
    """The logits of one picture, on the model's device."""

    class_logits: Float[Tensor, "queries labels_and_null"]
    mask_logits: Float[Tensor, "queries height width"]
    image_size: HeightWidth | None
    """How much of the padded network input is picture; None where masks are resized at once."""
    padded_size: HeightWidth | None
    is_mirrored: bool = False

    @property
    def num_labels(self) -> int:
        return self.class_logits.shape[1] - 1

    def semantic_scores(self, target_size: HeightWidth, *, rows: slice) -> Crop:
        """What each label's scores in some rows of the picture are made of, right way round."""
        crop = semantic_score_crop(
            self.class_logits,
            self.mask_logits,
            target_size,
            rows=rows,
            image_size=self.image_size,
            padded_size=self.padded_size,
        )
        if not self.is_mirrored:
            return crop
        return Crop(maps=crop.maps, rows=crop.rows, columns=crop.columns.reversed())

    def panoptic(self, target_size: HeightWidth, *, rule: PanopticRule) -> Segmentation:
        """The segments of a picture that is not mirrored."""
        assert not self.is_mirrored
        kept = keep_panoptic(self.class_logits, threshold=rule.threshold)
        return panoptic_segmentation(
            self.mask_logits[kept.queries],
            kept,
            target_size,
            image_size=self.image_size,
            padded_size=self.padded_size,
            mask_threshold=rule.mask_threshold,
            overlap_mask_area_threshold=rule.overlap_mask_area_threshold,
            label_ids_to_fuse=rule.label_ids_to_fuse,
        )


@torch.inference_mode()
def look(
    pixels: UInt8[np.ndarray, "height width 3"],
    *,
    model: nn.Module,
    image_processor: MaskFormerImageProcessor,
    is_mirrored: bool = False,
) -> View:
    """The view of pixels that the processor has resized.

    `is_mirrored` says that they have been mirrored, so that the scores are turned back.
    """
    parameter = next(model.parameters())
    pixel_values = image_processor.normalize(
        torch.from_numpy(np.ascontiguousarray(pixels)[None]).to(parameter.device),
        dtype=parameter.dtype,
    )
    output = model(pixel_values=pixel_values)
    size: HeightWidth = (pixels.shape[0], pixels.shape[1])
    padded_size: HeightWidth = (pixel_values.shape[2], pixel_values.shape[3])
    is_resized_at_once = size == padded_size and image_processor.resize_rule == "transformers"
    return View(
        class_logits=output.class_queries_logits[0],
        mask_logits=output.masks_queries_logits[0],
        image_size=None if is_resized_at_once else size,
        padded_size=None if is_resized_at_once else padded_size,
        is_mirrored=is_mirrored,
    )

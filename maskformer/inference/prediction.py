"""The prediction for one model input: a whole image, a resized or mirrored copy of it, or a window.

`augmentation.py` and `windows.py` predict one image several times and merge the results.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.postprocessing.geometry import Crop, HeightWidth
from maskformer.postprocessing.panoptic import PanopticRule, keep_panoptic, panoptic_segmentation
from maskformer.postprocessing.segments import Segmentation
from maskformer.postprocessing.semantic import semantic_score_crop


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """The logits of one model input, on the model's device."""

    class_logits: Float[Tensor, "queries labels_and_null"]
    mask_logits: Float[Tensor, "queries height width"]
    image_size: HeightWidth | None
    """The size of the image in the padded input; None where masks are resized to the target
    directly."""
    padded_size: HeightWidth | None
    is_mirrored: bool

    @property
    def num_labels(self) -> int:
        return self.class_logits.shape[1] - 1

    def semantic_scores(self, target_size: HeightWidth, *, rows: slice) -> Crop:
        """Returns each label's scores for some rows of the target, before they are resized.

        The scores of a mirrored image are mirrored back.
        """
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
        """Returns the segments of an image that is not mirrored."""
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
def predict_image(
    pixels: UInt8[np.ndarray, "height width 3"],
    *,
    model: nn.Module,
    image_processor: MaskFormerImageProcessor,
    is_mirrored: bool = False,
) -> ImagePrediction:
    """Runs the model on pixels that the processor has resized.

    With `is_mirrored` the pixels are mirrored already, and scores will be mirrored back.
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
    return ImagePrediction(
        class_logits=output.class_queries_logits[0],
        mask_logits=output.masks_queries_logits[0],
        image_size=None if is_resized_at_once else size,
        padded_size=None if is_resized_at_once else padded_size,
        is_mirrored=is_mirrored,
    )

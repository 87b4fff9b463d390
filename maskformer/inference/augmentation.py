"""Test-time augmentation: an image in several sizes, mirrored too, to one map of labels.

Takes a model, its image processor and an image. As in the published evaluation, each version goes
through the model on its own; their label scores (masks, weighted by class probabilities) are
resized to the image's size, mirrored ones are turned back, and the label with the highest mean wins
each pixel. The published numbers "with multi-scale and flip" are of six sizes and their mirror
images.

Scores of all labels at full size are large. What is kept of each version are its logits; their
scores are added up for some rows of the image at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor, nn

from maskformer.bilinear import bands
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.inference.prediction import ImagePrediction, predict_image
from maskformer.postprocessing.score_sum import ScoreSum
from maskformer.preprocessing.resizing import to_rgb

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""As published, of the shortest edge that the model is given."""

LONGEST_OVER_SHORTEST = 7
"""As published: no side is longer than so many of the model's shortest edges."""

BYTE_BUDGET = 64 << 20


class SemanticTestTimeAugmentation:
    """Predicts each image in several sizes, mirrored too, and merges the label scores."""

    def __init__(
        self,
        model: nn.Module,
        image_processor: MaskFormerImageProcessor,
        *,
        short_edges: Sequence[int] | None = None,
        longest_edge: int | None = None,
        flip: bool = True,
        byte_budget: int = BYTE_BUDGET,
    ) -> None:
        """`short_edges` are the sizes; None stands for the published `SCALES` of the processor's.

        With `flip` each size is predicted mirrored, too. `byte_budget` bounds the scores in memory;
        the result does not depend on it.
        """
        edge = image_processor.size.get("shortest_edge")
        if not image_processor.do_resize or edge is None:
            raise ValueError(
                "sizes are made by resizing to a shortest edge, and the image processor has "
                f"do_resize={image_processor.do_resize} and size={image_processor.size}; give one "
                "with size={'shortest_edge': ...}"
            )
        edges = [int(edge * scale) for scale in SCALES] if short_edges is None else short_edges
        if not edges:
            raise ValueError("short_edges has at least one size, got none")
        longest = LONGEST_OVER_SHORTEST * edge if longest_edge is None else longest_edge
        self._model = model
        self.image_processors = [
            image_processor.from_dict(
                image_processor.to_dict(),
                size={"shortest_edge": int(each), "longest_edge": int(longest)},
            )
            for each in edges
        ]
        self._flip = flip
        self._byte_budget = byte_budget

    @torch.inference_mode()
    def __call__(self, image: Image.Image | np.ndarray) -> Int64[Tensor, "height width"]:
        """The label of each pixel of the image, turned upright."""
        rgb = to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))
        predictions = [
            prediction
            for processor in self.image_processors
            for prediction in self._predictions(rgb, processor)
        ]
        size = rgb.height, rgb.width
        num_labels, device = predictions[0].num_labels, predictions[0].class_logits.device
        labels = []
        for band in bands(
            size[0], bytes_per_row=4 * num_labels * size[1], byte_budget=self._byte_budget
        ):
            # The mean would have its highest in the same place.
            total = ScoreSum(
                num_labels=num_labels,
                num_rows=band.stop - band.start,
                width=size[1],
                device=device,
            )
            for prediction in predictions:
                total.add(prediction.semantic_scores(size, rows=band))
            labels.append(total.leaders())
        return torch.cat(labels).long().cpu()

    def _predictions(
        self, rgb: Image.Image, processor: MaskFormerImageProcessor
    ) -> list[ImagePrediction]:
        given: dict[str, Any] = {"model": self._model, "image_processor": processor}
        pixels = processor.resize(rgb)
        predictions = [predict_image(pixels, **given)]
        if self._flip:
            # Mirrored after it was resized, as published.
            predictions.append(predict_image(pixels[:, ::-1], **given, is_mirrored=True))
        return predictions

"""From the model's outputs for a batch to each image's result, in the forms of transformers.

Takes the outputs of `model.py`; the image processor offers these methods as its own, and
`panoptic.py`, `instances.py` and `semantic.py` do the work, image by image. torch is imported when
a method is called, and so is what is compiled: the processes that read and resize start without
them.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from maskformer.batch import BatchFeature
from maskformer.preprocessing.resizing import HeightWidth

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Sizes = Sequence[HeightWidth] | Tensor
else:
    # torch is not imported for the sake of a signature.
    Sizes = Any


class OutputsToSegments:
    """The post-processing methods of the image processor."""

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sizes | None = None,
        return_segmentation_scores: bool = False,
        *,
        image_sizes: Sizes | None = None,
    ) -> list[Any]:
        """A map of labels for each image, or with scores a batch of `segmentation` and those.

        `image_sizes` says how much of the padded network input is image, in each one, and has
        padding cut off before anything is resized. The scores of all labels take memory.
        """
        from maskformer.postprocessing import semantic

        results: list[Any] = []
        for class_logits, mask_logits, geometry in _per_image(outputs, target_sizes, image_sizes):
            if return_segmentation_scores:
                scores = semantic.resized_semantic_scores(class_logits, mask_logits, **geometry)
                results.append(
                    BatchFeature(segmentation=scores.argmax(0), segmentation_scores=scores)
                )
                continue
            results.append(semantic.semantic_segmentation(class_logits, mask_logits, **geometry))
        return results

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Sizes | None = None,
        return_coco_annotation: bool | None = False,
        return_binary_maps: bool | None = False,
        *,
        image_sizes: Sizes | None = None,
    ) -> list[dict[str, Any]]:
        """For each image a `segmentation` and its `segments_info`, best instance first.

        The map gives each pixel to one instance. `return_binary_maps` gives the whole masks in
        its place, as uint8 [segments, height, width], and `return_coco_annotation` a list of COCO's
        {"size", "counts"}, both in the order of `segments_info`.
        """
        from maskformer.postprocessing import instances

        if return_coco_annotation and return_binary_maps:
            raise ValueError(
                "return_coco_annotation and return_binary_maps can not be both set to True: a "
                "result has one form"
            )
        results = []
        for class_logits, mask_logits, geometry in _per_image(outputs, target_sizes, image_sizes):
            kept = instances.keep_instance(class_logits, threshold=threshold)
            settings = {
                "threshold": threshold,
                "mask_threshold": mask_threshold,
                "overlap_mask_area_threshold": overlap_mask_area_threshold,
                **geometry,
            }
            masks = mask_logits[kept.queries]
            if not (return_coco_annotation or return_binary_maps):
                placed = instances.instance_segmentation(masks, kept, **settings)
                results.append(_result(placed.segmentation, placed.segments))
                continue
            found = instances.instance_masks(masks, kept, **settings)
            form = _coco_masks(found.masks.numpy()) if return_coco_annotation else found.masks
            results.append(_result(form, found.segments))
        return results

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: Sizes | None = None,
        *,
        image_sizes: Sizes | None = None,
    ) -> list[dict[str, Any]]:
        """For each image a map of segment ids, 0 where there is none, and its `segments_info`.

        Queries of one label in `label_ids_to_fuse` make one segment. None fuses nothing.
        """
        from maskformer.postprocessing import panoptic

        results = []
        for class_logits, mask_logits, geometry in _per_image(outputs, target_sizes, image_sizes):
            kept = panoptic.keep_panoptic(class_logits, threshold=threshold)
            found = panoptic.panoptic_segmentation(
                mask_logits[kept.queries],
                kept,
                mask_threshold=mask_threshold,
                overlap_mask_area_threshold=overlap_mask_area_threshold,
                label_ids_to_fuse=frozenset(label_ids_to_fuse or ()),
                **geometry,
            )
            results.append(_result(found.segmentation, found.segments))
        return results


def _per_image(
    outputs: Any,
    target_sizes: Sizes | None,
    image_sizes: Sizes | None,
) -> list[tuple["torch.Tensor", "torch.Tensor", dict[str, Any]]]:
    """Yields each image's class logits, mask logits, and sizes as keyword arguments."""
    class_logits, mask_logits = outputs.class_queries_logits, outputs.masks_queries_logits
    batch_size = len(class_logits)
    for name, sizes in (("target_sizes", target_sizes), ("image_sizes", image_sizes)):
        if sizes is not None and len(sizes) != batch_size:
            raise ValueError(
                f"Make sure that you pass in as many {name} as the batch dimension of the logits: "
                f"got {len(sizes)} for {batch_size}"
            )
    # The network's input is four times the masks, or a little less where 4 does not divide it.
    padded_size = (4 * mask_logits.shape[-2], 4 * mask_logits.shape[-1])
    geometries: list[dict[str, Any]] = [{} for _ in range(batch_size)]
    for place, geometry in enumerate(geometries):
        if target_sizes is not None:
            geometry["target_size"] = _as_pair(target_sizes[place])
        if image_sizes is not None:
            geometry |= {"image_size": _as_pair(image_sizes[place]), "padded_size": padded_size}
    return list(zip(class_logits.detach(), mask_logits.detach(), geometries, strict=True))


def _as_pair(size: Any) -> HeightWidth:
    """A size as two plain numbers, also where it was a row of a tensor."""
    return int(size[0]), int(size[1])


def _result(form: Any, segments: Sequence[Any]) -> dict[str, Any]:
    return {
        "segmentation": form,
        "segments_info": [
            {
                "id": segment.id,
                "label_id": segment.label_id,
                "was_fused": segment.was_fused,
                "score": round(segment.score, 6),
            }
            for segment in segments
        ],
    }


def _coco_masks(masks: UInt8[np.ndarray, "segments height width"]) -> list[dict[str, Any]]:
    from maskformer.cpu.segment_shapes import encode_mask

    return [{"size": list(mask.shape), "counts": encode_mask(mask.astype(bool))} for mask in masks]

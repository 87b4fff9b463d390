"""Whole instances: the best pairs of a query and a label, each with all of its mask, as published.

This is what AP is published of: no threshold on scores, and masks that overlap. The map of
`instances.py` shows the same instances as people look at them: the sure ones, no pixel twice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskformer import bilinear
from maskformer.cpu.segment_shapes import encode_mask
from maskformer.postprocessing.geometry import Geometry, HeightWidth
from maskformer.postprocessing.segments import KeptQueries


@dataclass(frozen=True, kw_only=True)
class WholeInstance:
    """A whole instance, including pixels that other instances cover."""

    label_id: int
    score: float
    rle: str


def whole_instances(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    byte_budget: int | None = None,
) -> list[WholeInstance]:
    """An instance for each row of `kept`, in that order, but for those without a pixel.

    As in Detectron2, a mask is where the logits at the target size are above 0, and a score is the
    label's probability times the mean probability in the mask.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    budget = bilinear.byte_budget_of(mask_logits.device) if byte_budget is None else byte_budget
    # A query may stand in several rows, with a label each.
    row_of = {query: row for row, query in reversed(list(enumerate(kept.queries.tolist())))}
    found: dict[int, tuple[str, float]] = {}
    rows = torch.tensor(sorted(row_of.values()), dtype=torch.int64)
    for some in rows.split(geometry.masks_within(budget)):
        logits = geometry.resized(mask_logits[some.to(mask_logits.device)].float())
        is_inside = logits > 0
        areas = is_inside.flatten(1).sum(1)
        scores = (logits.sigmoid() * is_inside).flatten(1).sum(1) / (areas + 1e-6)
        for row, mask, score in zip(
            some.tolist(), is_inside.cpu().numpy(), scores.tolist(), strict=True
        ):
            if score > 0:
                found[row] = encode_mask(mask), score
    instances = []
    pairs = zip(kept.queries.tolist(), kept.labels.tolist(), kept.scores.tolist(), strict=True)
    for query, label, probability in pairs:
        if row_of[query] in found:
            rle, score = found[row_of[query]]
            instances.append(WholeInstance(label_id=label, score=probability * score, rle=rle))
    return instances

"""A tiny model and batches to train it on, without a data set."""

import torch

from maskformer import (
    IdMap,
    MaskFormerConfig,
    MaskFormerDetrConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerSwinConfig,
)
from pipeline.training.batches import Batch

NUM_LABELS, SIZE = 4, (64, 64)


def tiny_config(**values: object) -> MaskFormerConfig:
    return MaskFormerConfig(
        backbone_config=MaskFormerSwinConfig(
            embed_dim=8,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=MaskFormerDetrConfig(
            d_model=32,
            num_queries=8,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_layers=2,
            decoder_ffn_dim=32,
            dropout=0.0,
        ),
        fpn_feature_size=32,
        mask_feature_size=32,
        **{"num_labels": NUM_LABELS, **values},
    )


def tiny_model(**values: object) -> MaskFormerForInstanceSegmentation:
    torch.manual_seed(0)
    return MaskFormerForInstanceSegmentation(tiny_config(**values))


def drawn_batch(images: list[int], *, num_masks: list[int], seed: int = 0) -> Batch:
    """The images of these numbers, each with so many upright bars of masks."""
    pixels, masks, labels = [], [], []
    for image, count in zip(images, num_masks, strict=True):
        random = torch.Generator().manual_seed(1000 * seed + image)
        pixels.append(torch.randn(3, *SIZE, generator=random))
        columns = torch.arange(SIZE[1]) * max(count, 1) // SIZE[1] + 1
        ids = columns.expand(SIZE).clone() if count else torch.zeros(SIZE, dtype=torch.long)
        masks.append(IdMap(map=ids, ids=torch.arange(1, count + 1)))
        labels.append(torch.randint(NUM_LABELS, (count,), generator=random))
    return Batch(
        image_ids=[str(image) for image in images],
        pixel_values=torch.stack(pixels),
        pixel_mask=torch.ones(len(images), *SIZE, dtype=torch.bool),
        mask_labels=masks,
        class_labels=labels,
    )

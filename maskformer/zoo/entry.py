"""An entry of the zoo: all that is published of one model, as plain data.

`MaskFormerConfig.from_dict(entry.config)` and `MaskFormerImageProcessor.from_dict(
entry.image_processor)` build objects of it; `from_pretrained` does so by the entry's name.
"""

from dataclasses import dataclass
from typing import Any, Literal

from maskformer.zoo.backbones import ZooBackbone
from maskformer.zoo.datasets import Dataset
from maskformer.zoo.recipe import Recipe, Testing

LICENCE = "CC BY-NC 4.0"
"""Of the released weights: not for commercial use."""

# Parameters: a label's row in the class head; and what six layers of encoder add, less the wide
# projections that they make needless.
_PER_LABEL = 257
_ENCODER = 3_761_664


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The released file, in Detectron2's names."""

    url: str
    md5_start: str
    """The first digits of the file's MD5, which its name carries."""
    hub_id: str | None
    """The same model on the hub, in transformers' names."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The numbers of the paper's code, in per cent, on the validation set."""

    miou: float | None = None
    miou_augmented: float | None = None
    """With several scales and mirrored."""
    pq: float | None = None


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds of panoptic segmentation, named as arguments of its post-processing."""

    threshold: float
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published model."""

    name: str
    task: Literal["semantic", "panoptic"]
    dataset: Dataset
    backbone: ZooBackbone
    has_pixel_encoder: bool
    """Six layers of a transformer encoder in the pixel decoder: 6Enc."""
    testing: Testing
    thresholds: Thresholds | None
    """None where only semantic segmentation was published, which has none."""
    recipe: Recipe
    published: Published
    weights: Weights
    licence: str = LICENCE

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.dataset.labels))

    @property
    def things(self) -> frozenset[int]:
        return self.dataset.things

    @property
    def stuff(self) -> frozenset[int]:
        """The labels that panoptic segmentation fuses (`label_ids_to_fuse`)."""
        return self.dataset.stuff

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters."""
        labels = _PER_LABEL * (len(self.dataset.labels) - 150)
        return self.backbone.num_parameters + labels + (_ENCODER if self.has_pixel_encoder else 0)

    @property
    def config(self) -> dict[str, Any]:
        """The fields of config.json that differ from the defaults.

        Auxiliary losses are off, as evaluation wants it and transformers can run it; training turns
        them on (`use_auxiliary_loss`).
        """
        encoder = self.has_pixel_encoder
        return {
            "model_type": "maskformer",
            "backbone_config": dict(self.backbone.config),
            "decoder_config": {
                # transformers has no pixel encoder, and refuses a decoder of this type.
                "model_type": "detr-on-other-features" if encoder else "detr",
                "attention_dropout": 0.1,
                "activation_dropout": 0.1,
            },
            "pixel_decoder": "transformer_encoder" if encoder else "fpn",
            "transformer_in_feature": "transformer_encoder" if encoder else "res5",
            "id2label": self.id2label,
            # ADE20K's full set does not say which of its labels are things.
            "things": sorted(self.things) or None,
        }

    @property
    def image_processor(self) -> dict[str, Any]:
        """The settings of preprocessor_config.json for the published results."""
        return {
            "image_processor_type": "MaskFormerImageProcessor",
            "size": {
                "shortest_edge": self.testing.short_edge,
                "longest_edge": self.testing.max_edge,
            },
            "size_divisor": self.testing.size_divisor,
            "resize_rule": "detectron2",
            "ignore_index": self.dataset.ignore_index,
            "do_reduce_labels": self.dataset.zero_is_ignored and self.task == "semantic",
            "num_labels": len(self.dataset.labels),
        }

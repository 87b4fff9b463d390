"""The backbones of the published models: configuration, size, where their ImageNet weights are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ZooBackbone:
    """A backbone, as plain data."""

    title: str
    config: Mapping[str, Any]
    """The fields of its configuration that differ from the defaults, and its `model_type`."""
    num_parameters: int
    """Of a whole model on it, with 150 labels; frozen batch norm has none."""
    imagenet: str
    """What training starts from: a name in timm, or a URL."""

    @property
    def is_swin(self) -> bool:
        return "Swin" in self.title


# All four stages come out of each of them, the stem does not.
_STAGES = ("stage1", "stage2", "stage3", "stage4")
_RESNET = {"model_type": "resnet", "out_features": _STAGES, "frozen_batch_norm": True}
_SWIN = {"model_type": "swin", "out_features": _STAGES, "drop_path_rate": 0.3}
_LARGER_SWIN = {**_SWIN, "depths": (2, 2, 18, 2), "window_size": 12, "image_size": 384}

RESNET50 = ZooBackbone(
    title="R50",
    config={**_RESNET, "depths": (3, 4, 6, 3)},
    num_parameters=41_254_743,
    imagenet="resnet50.tv_in1k",
)
RESNET101 = ZooBackbone(
    title="R101",
    config={**_RESNET, "depths": (3, 4, 23, 3)},
    num_parameters=60_194_647,
    imagenet="resnet101.tv_in1k",
)
RESNET101C = ZooBackbone(
    title="R101c",
    config={**_RESNET, "model_type": "deeplab-resnet"},
    num_parameters=60_318_039,
    imagenet="https://dl.fbaipublicfiles.com/detectron2/DeepLab/R-103.pkl",
)
SWIN_TINY = ZooBackbone(
    title="Swin-T",
    config=_SWIN,
    num_parameters=41_757_009,
    imagenet="swin_tiny_patch4_window7_224.ms_in1k",
)
SWIN_SMALL = ZooBackbone(
    title="Swin-S",
    config={**_SWIN, "depths": (2, 2, 18, 2)},
    num_parameters=63_074_913,
    imagenet="swin_small_patch4_window7_224.ms_in1k",
)
# The larger two start from ImageNet-22k, without fine-tuning on ImageNet-1k.
SWIN_BASE = ZooBackbone(
    title="Swin-B",
    config={**_LARGER_SWIN, "embed_dim": 128, "num_heads": (4, 8, 16, 32)},
    num_parameters=101_829_391,
    imagenet="swin_base_patch4_window12_384.ms_in22k",
)
SWIN_LARGE = ZooBackbone(
    title="Swin-L",
    config={**_LARGER_SWIN, "embed_dim": 192, "num_heads": (6, 12, 24, 48)},
    num_parameters=211_575_627,
    imagenet="swin_large_patch4_window12_384.ms_in22k",
)

"""Configurations: what a model is made of, in transformers' names, fields and defaults.

Takes keyword arguments, a dictionary or the `config.json` of a folder, written by transformers 4
or 5 or by us; gives plain objects without torch. `model.py` builds the model they describe, and
`weights.py` reads them to judge a folder before anything starts.

transformers reads what we write wherever it can build the model. What it cannot is written so that
it refuses: DeepLab's ResNet as a backbone of a type it does not know; the encoder of the pixel
decoder and queries that look at another map than the coarsest as a decoder of such a type. Frozen
batch norm is a field that it passes over: evaluation is the same.
"""

from maskformer.configuration.backbones import (
    STAGES,
    BackboneConfig,
    DeepLabResNetConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
)
from maskformer.configuration.base import CONFIG_NAME, PretrainedConfig, check_label_ids
from maskformer.configuration.model import MaskFormerConfig, MaskFormerDetrConfig

__all__ = [
    "CONFIG_NAME",
    "STAGES",
    "BackboneConfig",
    "DeepLabResNetConfig",
    "MaskFormerConfig",
    "MaskFormerDetrConfig",
    "MaskFormerSwinConfig",
    "PretrainedConfig",
    "ResNetConfig",
    "SwinConfig",
    "TimmBackboneConfig",
    "check_label_ids",
]

"""ResNet and timm's backbones: transformers' names and numbers."""

import pytest
import torch
import transformers

from maskformer.configuration import MaskFormerConfig, ResNetConfig, TimmBackboneConfig
from maskformer.network.backbones import build_backbone
from maskformer.network.pixel_decoder import PixelDecoder

SMALL = {
    "embedding_size": 8,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 2, 1, 1],
    "out_features": ["stem", "stage1", "stage3", "stage4"],
}


@torch.no_grad()
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"layer_type": "basic"},
        {"downsample_in_first_stage": True},
        {"downsample_in_bottleneck": True, "hidden_act": "gelu"},
    ],
    ids=lambda values: ",".join(values) or "default",
)
def test_resnet_gives_the_maps_of_transformers(values):
    torch.manual_seed(0)
    theirs = transformers.ResNetBackbone(transformers.ResNetConfig(**SMALL, **values)).eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    ours = build_backbone(ResNetConfig(**SMALL, **values)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pixels = torch.randn(2, 3, 50, 70)

    for a, b in zip(ours(pixels), theirs(pixels).feature_maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert ours.channels == [8, 16, 48, 64]


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "tf_efficientnet_lite0"])
def test_timm_backbones_have_the_names_and_maps_of_transformers(name):
    values = {"backbone": name, "out_indices": [0, 1, 2, 3]}
    theirs = transformers.TimmBackbone(transformers.TimmBackboneConfig(**values)).eval()
    ours = build_backbone(TimmBackboneConfig(**values)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 64, 96)

    maps = ours(pixels)

    for a, b in zip(maps, theirs(pixels).feature_maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert [m.shape[1] for m in maps] == ours.channels


def test_frozen_batch_norm_and_output_stride_have_effect():
    frozen = build_backbone(TimmBackboneConfig(backbone="resnet18", freeze_batch_norm_2d=True))
    dense = build_backbone(TimmBackboneConfig(backbone="resnet18", output_stride=16))

    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())
    assert dense(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 4


def test_a_backbone_that_cannot_serve_is_named():
    with pytest.raises(ValueError, match="name of a timm model, got 'resnet1800'"):
        build_backbone(TimmBackboneConfig(backbone="resnet1800"))
    with pytest.raises(ValueError, match="features_only must be True"):
        build_backbone(TimmBackboneConfig(backbone="resnet18", features_only=False))
    with pytest.raises(ValueError, match="two maps of the backbone or more, got 1"):
        PixelDecoder(channels=[64], config=MaskFormerConfig())

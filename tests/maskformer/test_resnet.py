"""DeepLab's ResNet, frozen batch norm and gradient checkpointing, against the published facts."""

import timm
import torch

from maskformer.configuration import DeepLabResNetConfig, ResNetConfig
from maskformer.network.backbones import build_backbone
from maskformer.network.resnet import FrozenBatchNorm

ALL = ("stage1", "stage2", "stage3", "stage4")


def as_timm(name: str) -> str:
    """A name of ours as timm has it in its deep-stem ResNets."""
    for ours, theirs in (
        ("embedder.embedder.0.convolution.", "conv1.0."),
        ("embedder.embedder.0.normalization.", "conv1.1."),
        ("embedder.embedder.1.convolution.", "conv1.3."),
        ("embedder.embedder.1.normalization.", "conv1.4."),
        ("embedder.embedder.2.convolution.", "conv1.6."),
        ("embedder.embedder.2.normalization.", "bn1."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    _, _, stage, _, block, kind, *rest = name.split(".")
    if kind == "shortcut":
        part = {"convolution": "0", "normalization": "1"}[rest[0]]
        return f"layer{int(stage) + 1}.{block}.downsample.{part}.{rest[1]}"
    part = {"convolution": "conv", "normalization": "bn"}[rest[1]]
    return f"layer{int(stage) + 1}.{block}.{part}{int(rest[0]) + 1}.{rest[2]}"


def set_statistics(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in backbone.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


@torch.no_grad()
def test_r101c_is_a_deep_stem_resnet_whose_last_blocks_are_dilated():
    torch.manual_seed(0)
    ours = build_backbone(DeepLabResNetConfig(depths=(3, 4, 6, 3), out_features=ALL)).eval()
    set_statistics(ours)
    # timm's ResNet with a stem of 64, 64, 128 has no multi-grid: its convolutions get it by hand.
    theirs = timm.create_model("resnet50s", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    for block, dilation in zip(theirs.layer4, (1, 2, 4), strict=True):
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    theirs.load_state_dict({as_timm(k): v for k, v in ours.state_dict().items()}, strict=True)
    pixels = torch.randn(1, 3, 70, 100)

    for a, b in zip(ours(pixels), theirs(pixels), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    assert ours.channels == [256, 512, 1024, 2048]


@torch.no_grad()
def test_a_dilated_stage_keeps_the_size_of_the_map_before_it():
    small = {"hidden_sizes": (8, 16, 24, 32), "embedding_size": 8, "depths": (1, 1, 1, 3)}
    plain = build_backbone(DeepLabResNetConfig(**small, out_features=ALL))
    dense = build_backbone(
        DeepLabResNetConfig(**small, out_features=ALL, dilations=(1, 1, 2, 4), multi_grid=(1, 1, 1))
    )
    pixels = torch.randn(1, 3, 64, 64)

    assert [m.shape[-1] for m in plain(pixels)] == [16, 8, 4, 2]
    assert [m.shape[-1] for m in dense(pixels)] == [16, 8, 8, 8]
    assert [block.layer[1].convolution.dilation[0] for block in dense.encoder.stages[3].layers] == [
        4,
        4,
        4,
    ]


SMALL = {
    "embedding_size": 8,
    "hidden_sizes": (16, 32, 48, 64),
    "depths": (2, 2, 2, 2),
    "out_features": ALL,
}


def test_frozen_batch_norm_stays_as_loaded_in_training_unlike_transformers():
    torch.manual_seed(0)
    learning = build_backbone(ResNetConfig(**SMALL)).eval()
    set_statistics(learning)
    frozen = build_backbone(ResNetConfig(**SMALL, frozen_batch_norm=True)).train()
    frozen.load_state_dict(learning.state_dict(), strict=True)
    before = {name: buffer.clone() for name, buffer in frozen.named_buffers()}
    pixels = torch.randn(2, 3, 64, 64)

    maps = frozen(pixels)
    sum(m.sum() for m in maps).backward()

    for ours, expected in zip(maps, learning(pixels), strict=True):
        torch.testing.assert_close(ours, expected)
    assert all(torch.equal(before[name], buffer) for name, buffer in frozen.named_buffers())
    assert all(p.dim() == 4 and p.grad is not None for p in frozen.parameters())
    assert not [m for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_frozen_batch_norm_has_no_parameters():
    assert list(FrozenBatchNorm(8).parameters()) == []

"""Swin: pad first, roll after; names as published; images of a batch keep to themselves."""

import pytest
import timm
import torch
from transformers.models.maskformer.configuration_maskformer_swin import (
    MaskFormerSwinConfig as TheirConfig,
)
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone

from maskformer.configuration import MaskFormerSwinConfig
from maskformer.network import window_attention
from maskformer.network.swin import SwinBackbone

SMALL = {
    "embed_dim": 16,
    "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 4, 8),
    "window_size": 7,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    model = SwinBackbone(MaskFormerSwinConfig(**SMALL)).eval()
    for parameter in model.parameters():  # norms and biases that would show if they were left out
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def theirs_like(backbone):
    model = MaskFormerSwinBackbone(TheirConfig(**SMALL)).eval()
    state = {**backbone.state_dict(), **backbone.published_besides()}
    model.load_state_dict(state, strict=True)
    return model


def timm_like(backbone, *, size):
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        features_only=True,
        img_size=size,
        embed_dim=SMALL["embed_dim"],
        depths=SMALL["depths"],
        num_heads=SMALL["num_heads"],
        always_partition=True,
    ).eval()
    names = {
        "model.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "model.embeddings.norm": "patch_embed.norm",
    }
    for stage in range(4):
        for block in range(2):
            ours = f"model.encoder.layers.{stage}.blocks.{block}"
            names |= {
                f"{ours}.{a}": f"layers_{stage}.blocks.{block}.{b}"
                for a, b in {
                    "layernorm_before": "norm1",
                    "layernorm_after": "norm2",
                    "attention.self.qkv": "attn.qkv",
                    "attention.self": "attn",
                    "attention.output.dense": "attn.proj",
                    "intermediate.dense": "mlp.fc1",
                    "output.dense": "mlp.fc2",
                }.items()
            }
        names[f"model.encoder.layers.{stage}.downsample"] = f"layers_{stage + 1}.downsample"
        for part in ("norm", "reduction"):
            ours = f"model.encoder.layers.{stage}.downsample.{part}"
            names[ours] = f"layers_{stage + 1}.downsample.{part}"
    state = {}
    for name, value in backbone.named_parameters():
        module, kind = name.rsplit(".", 1)
        if module in names:
            state[f"{names[module]}.{kind}"] = value
    model.load_state_dict(state, strict=True)
    return model


def stage_tokens(backbone, pixels):
    """The maps before the norms that MaskFormer adds."""
    return [stage.permute(0, 3, 1, 2) for stage in backbone.model(pixels)]


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 128), (33, 47), (100, 132), (28, 28), (224, 224)])
def test_maps_are_those_of_the_published_code_at_any_size(backbone, size):
    pixels = torch.randn(2, 3, *size)

    for ours, theirs in zip(
        backbone(pixels), theirs_like(backbone)(pixels).feature_maps, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_before_rolling_differs_from_timm_which_rolls_before_padding(backbone):
    # 112, 56, 28 and 14 are larger multiples of the window; 32, 16, 8 and 4 are none.
    for size, equal in ((448, True), (128, False)):
        pixels = torch.randn(1, 3, size, size)
        ours = stage_tokens(backbone, pixels)[0]
        theirs = timm_like(backbone, size=size)(pixels)[0].permute(0, 3, 1, 2)
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4) is equal


def test_on_disk_query_key_and_value_are_apart(backbone):
    state = backbone.state_dict()
    name = "model.encoder.layers.0.blocks.0.attention.self"

    assert not any("qkv" in key for key in state)
    assert state[f"{name}.query.weight"].shape == (16, 16)
    other = SwinBackbone(MaskFormerSwinConfig(**SMALL))
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in state.items())


@torch.no_grad()
def test_an_image_alone_gives_the_maps_it_gives_in_a_batch(backbone):
    pixels = torch.randn(3, 3, 60, 90)

    batched = backbone(pixels)

    for index in range(3):
        for alone, together in zip(backbone(pixels[index : index + 1]), batched, strict=True):
            torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 3])
def test_the_batched_attention_of_training_on_a_cpu_is_scaled_dot_product_attention(shift):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 8, 2, 49, 16).bfloat16()
    bias = torch.randn(8, 2, 49, 49).bfloat16()
    bias[:, :, :, shift * 10 :] -= 100.0 if shift else 0.0

    exact = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=bias.double()
    )

    ours = window_attention._many_learning_attentions(query, key, value, bias)
    torch.testing.assert_close(ours.double(), exact, atol=0.03, rtol=0.03)


def test_training_reaches_every_parameter_and_drops_whole_images(backbone):
    config = MaskFormerSwinConfig(**SMALL, drop_path_rate=0.5)
    model = SwinBackbone(config).train()
    pixels = torch.randn(1, 3, 64, 64).repeat(8, 1, 1, 1)

    maps = model(pixels)
    sum(stage.square().sum() for stage in maps).backward()

    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not torch.allclose(maps[-1][0], maps[-1][1])


def test_a_map_from_the_stem_or_absolute_positions_are_refused():
    with pytest.raises(ValueError, match="not its stem"):
        SwinBackbone(MaskFormerSwinConfig(**{**SMALL, "out_features": ["stem", "stage1"]}))
    with pytest.raises(ValueError, match="use_absolute_embeddings must be False"):
        SwinBackbone(MaskFormerSwinConfig(**SMALL, use_absolute_embeddings=True))

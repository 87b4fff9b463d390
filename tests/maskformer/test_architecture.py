"""Every published variant: its size, its gradients, its ways to masks, its configuration."""

import json

import pytest
import torch
import transformers
from tiny import STAGES, make_tiny

from maskformer.configuration import (
    DeepLabResNetConfig,
    MaskFormerConfig,
    MaskFormerDetrConfig,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
)
from maskformer.model import MaskFormerForInstanceSegmentation, MaskFormerModel
from maskformer.network.positions import position_embedding

ENCODER = {"pixel_decoder": "transformer_encoder", "transformer_in_feature": "transformer_encoder"}


def swin(**values):
    return SwinConfig(out_features=STAGES, **values)


def resnet(depths=(3, 4, 6, 3)):
    return ResNetConfig(out_features=STAGES, depths=depths, frozen_batch_norm=True)


SWIN_S = {"depths": (2, 2, 18, 2)}
SWIN_B = {**SWIN_S, "embed_dim": 128, "num_heads": (4, 8, 16, 32), "window_size": 12}
SWIN_L = {**SWIN_S, "embed_dim": 192, "num_heads": (6, 12, 24, 48), "window_size": 12}
R101 = (3, 4, 23, 3)
R101C = {"out_features": STAGES, "frozen_batch_norm": True}

# Trainable parameters: frozen batch norm has none.
COUNTS = [
    ("swin-t", swin(), 150, {}, 41_757_009),
    ("swin-s", swin(**SWIN_S), 150, {}, 63_074_913),
    ("swin-b", swin(**SWIN_B), 150, {}, 101_829_391),
    ("swin-l", swin(**SWIN_L), 150, {}, 211_575_627),
    ("r50", resnet(), 150, {}, 41_254_743),
    ("r101", resnet(R101), 150, {}, 60_194_647),
    ("r101c", DeepLabResNetConfig(**R101C), 150, {}, 60_318_039),
    ("swin-t-133", swin(), 133, {}, 41_752_640),
    ("swin-s-133", swin(**SWIN_S), 133, {}, 63_070_544),
    ("swin-b-133", swin(**SWIN_B), 133, {}, 101_825_022),
    ("swin-l-133", swin(**SWIN_L), 133, {}, 211_571_258),
    ("r50-6enc", resnet(), 133, ENCODER, 45_012_038),
    ("r101-6enc", resnet(R101), 133, ENCODER, 63_951_942),
]


@pytest.mark.parametrize(
    ("backbone", "num_labels", "values", "count"),
    [case[1:] for case in COUNTS],
    ids=[case[0] for case in COUNTS],
)
def test_models_have_the_published_number_of_parameters(backbone, num_labels, values, count):
    config = MaskFormerConfig(backbone_config=backbone, num_labels=num_labels, **values)
    with torch.device("meta"):
        model = MaskFormerForInstanceSegmentation(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


BACKBONES = {
    "swin": (swin(), 27_520_698),
    "swin_b": (swin(**SWIN_B), 86_880_376),
    "resnet50": (resnet(), 23_454_912),
    "resnet101": (resnet(R101), 42_394_816),
    "resnet101c": (DeepLabResNetConfig(**R101C), 42_518_208),
    "resnet50 that learns its batch norm": (
        ResNetConfig(out_features=STAGES),
        23_454_912 + 53_120,
    ),
}


@pytest.mark.parametrize(("backbone", "count"), BACKBONES.values(), ids=BACKBONES)
def test_backbones_have_the_published_number_of_parameters(backbone, count):
    with torch.device("meta"):
        model = MaskFormerModel(MaskFormerConfig(backbone_config=backbone))
    encoder = model.pixel_level_module.encoder
    assert sum(p.numel() for p in encoder.parameters()) == count


SMALL = {"embedding_size": 8, "hidden_sizes": (16, 32, 48, 64), "out_features": STAGES}

VARIANTS = {
    "swin of two maps": {
        "backbone_config": SwinConfig(
            embed_dim=16,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 4),
            window_size=4,
            out_features=STAGES[2:],
        )
    },
    "6enc": {**ENCODER},
    "6enc seen by the pyramid alone": {"pixel_decoder": "transformer_encoder"},
    "res2": {"transformer_in_feature": "res2"},
    "res3": {"transformer_in_feature": "res3"},
    "res4": {"transformer_in_feature": "res4"},
    "resnet": {"backbone_config": ResNetConfig(**SMALL, depths=(1, 1, 1, 1))},
    "frozen resnet, 6enc": {
        "backbone_config": ResNetConfig(**SMALL, depths=(1, 1, 1, 1), frozen_batch_norm=True),
        **ENCODER,
    },
    "r101c": {
        "backbone_config": DeepLabResNetConfig(**SMALL, depths=(1, 1, 1, 3), frozen_batch_norm=True)
    },
    "timm": {
        "backbone_config": TimmBackboneConfig(backbone="test_resnet", out_indices=[0, 1, 2, 3])
    },
}


def make_variant(variant):
    return make_tiny(use_auxiliary_loss=True, **VARIANTS[variant])


def draw_target_masks():
    generator = torch.Generator().manual_seed(3)
    masks = [(torch.rand(n + 1, 64, 96, generator=generator) > 0.5).float() for n in range(2)]
    return {"mask_labels": masks, "class_labels": [torch.arange(n + 1) % 4 for n in range(2)]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_reaches_every_parameter_of_every_variant(variant):
    model = make_variant(variant).train()

    model(torch.randn(2, 3, 64, 96), **draw_target_masks()).loss.backward()

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_query_first_gives_the_masks_of_the_forward_for_every_variant(variant):
    model = make_variant(variant)
    pixels = torch.randn(2, 3, 60, 90)

    full, decoding = model(pixels), model.decode_queries(pixels)

    torch.testing.assert_close(decoding.class_queries_logits, full.class_queries_logits)
    masks = model.query_masks(decoding, index=1, kept=torch.tensor([7, 2]))
    torch.testing.assert_close(masks, full.masks_queries_logits[1, [7, 2]], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_encoder_is_that_of_pytorch_with_positions_added_to_queries_and_keys():
    model = make_variant("6enc").model.pixel_level_module.decoder.encoder
    features = torch.randn(1, 128, 3, 5)

    encoded = model(features)

    tokens = model.input_projection(features).flatten(2).transpose(1, 2)
    positions = position_embedding(3, 5, 32, tokens.device, tokens.dtype)
    for layer in model.layers:
        attention = torch.nn.MultiheadAttention(32, 8, batch_first=True)
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        attention.out_proj.load_state_dict(layer.self_attn.out_proj.state_dict())
        placed = tokens + positions
        attended, _ = attention(placed, placed, tokens)
        tokens = layer.self_attn_layer_norm(tokens + attended)
        tokens = layer.final_layer_norm(tokens + layer.fc2(layer.fc1(tokens).relu()))
    expected = tokens.transpose(1, 2).reshape(1, 32, 3, 5)
    torch.testing.assert_close(encoded, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("feature", "index"), [("res2", 0), ("res4", 2), ("res5", 3)])
def test_the_queries_look_at_the_map_that_is_named(feature, index):
    model = make_tiny(transformer_in_feature=feature).model
    pixels = torch.randn(1, 3, 64, 96)

    output = model(pixels, output_hidden_states=True)

    decoded = model.transformer_module(output.encoder_hidden_states[index])
    torch.testing.assert_close(
        output.transformer_decoder_last_hidden_state, decoded.layer_states[-1]
    )


def test_a_feature_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"transformer_in_feature must be one of res2, .* got 'tran"
    ):
        MaskFormerConfig(transformer_in_feature="transformer_encoder")
    with pytest.raises(ValueError, match=r"pixel_decoder must be one of fpn, .* got 'msdeform'"):
        MaskFormerConfig(pixel_decoder="msdeform")
    two = {"backbone_config": SwinConfig(out_features=STAGES[2:]), "transformer_in_feature": "res2"}
    with pytest.raises(ValueError, match="a map that the backbone gives, got res2, and it gives 2"):
        MaskFormerModel(MaskFormerConfig(**two))
    with pytest.raises(ValueError, match="multi_grid one for each block of the last, got"):
        DeepLabResNetConfig(multi_grid=(1, 2))


def test_what_transformers_can_express_it_reads_and_computes_alike(tmp_path):
    model = make_tiny(
        backbone_config=ResNetConfig(**SMALL, depths=(1, 2, 1, 1), frozen_batch_norm=True)
    )
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path)

    theirs, report = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )

    assert model.config.is_in_transformers
    assert not report["missing_keys"]
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixels).masks_queries_logits,
            theirs.eval()(pixels).masks_queries_logits,
            atol=1e-4,
            rtol=1e-4,
        )
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    assert again.config.backbone_config.frozen_batch_norm
    assert torch.equal(again(pixels).masks_queries_logits, model(pixels).masks_queries_logits)


@pytest.mark.parametrize("variant", ["6enc", "res4", "r101c"])
def test_what_transformers_cannot_express_it_refuses_and_we_read(variant, tmp_path):
    model = make_variant(variant)
    model.save_pretrained(tmp_path)

    assert not model.config.is_in_transformers
    with pytest.raises((ValueError, KeyError)):
        transformers.MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)

    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 96)
    assert torch.equal(again(pixels).masks_queries_logits, model(pixels).masks_queries_logits)


def test_fields_of_ours_are_written_only_where_they_differ():
    plain = json.loads(MaskFormerConfig(backbone_config=resnet()).to_json_string())
    assert not {"pixel_decoder", "transformer_in_feature"} & plain.keys()
    assert plain["backbone_config"]["frozen_batch_norm"] is True
    assert "frozen_batch_norm" not in ResNetConfig().to_dict()
    assert plain["decoder_config"]["model_type"] == "detr"


@pytest.mark.parametrize("variant", ["res4", "resnet", "frozen resnet, 6enc", "timm"])
def test_gradient_checkpointing_changes_no_gradient(variant):
    model = make_variant(variant).train()
    # Each time anew: dropout draws, and batch norm counts.
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        torch.manual_seed(5)
        model(torch.randn(2, 3, 64, 96), **draw_target_masks()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_checkpointing_keeps_less_for_the_backward_pass():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            model(torch.randn(1, 3, 64, 96))
        return sum(sizes)

    model = make_variant("res4").train()
    before = kept(model)
    model.gradient_checkpointing_enable()
    assert kept(model) < 0.7 * before


def test_fresh_convolutions_and_attention_are_as_published_unlike_transformers():
    config = MaskFormerConfig(backbone_config=resnet(), **ENCODER)
    torch.manual_seed(0)
    model = MaskFormerForInstanceSegmentation(config)
    pixel, query = model.model.pixel_level_module.decoder, model.model.transformer_module

    def bound_of(weight):
        return weight.abs().max().item()

    # Caffe2's Xavier: uniform within the root of three by what comes in.
    for convolution in (pixel.mask_projection, pixel.fpn.stem[0], pixel.fpn.layers[0].block[0]):
        assert bound_of(convolution.weight) == pytest.approx((3 / (256 * 9)) ** 0.5, rel=1e-3)
    assert bound_of(pixel.encoder.input_projection.weight) == pytest.approx((3 / 2048) ** 0.5, 1e-3)
    assert not pixel.mask_projection.bias.any()
    # Xavier, with query, key and value counted as one matrix.
    for layer in (pixel.encoder.layers[0], query.decoder.layers[5]):
        attention = layer.self_attn
        assert bound_of(attention.q_proj.weight) == pytest.approx((6 / (4 * 256)) ** 0.5, 1e-3)
        assert bound_of(attention.out_proj.weight) == pytest.approx((6 / (2 * 256)) ** 0.5, 1e-3)
        assert bound_of(layer.fc1.weight) == pytest.approx((6 / (256 + 2048)) ** 0.5, 1e-3)
        assert not attention.v_proj.bias.any()
        assert not attention.out_proj.bias.any()
    # PyTorch's own.
    assert bound_of(model.class_predictor.weight) == pytest.approx(256**-0.5, rel=1e-2)
    assert bound_of(model.mask_embedder[1][0].weight) == pytest.approx(256**-0.5, rel=1e-2)


def test_the_decoder_reads_the_fields_of_its_encoder():
    decoder = MaskFormerDetrConfig(
        d_model=32, encoder_layers=2, encoder_ffn_dim=48, encoder_attention_heads=4
    )
    encoder = make_tiny(decoder_config=decoder, **ENCODER).model.pixel_level_module.decoder.encoder
    assert len(encoder.layers) == 2
    assert encoder.layers[0].fc1.out_features == 48
    assert encoder.layers[0].self_attn.num_heads == 4

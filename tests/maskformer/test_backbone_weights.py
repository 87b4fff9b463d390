"""Weights for a backbone alone: timm's and others' ImageNet models give the features they gave."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_dialects import SMALL, detectron2, with_backbone
from tiny import STAGES, make_tiny

from maskformer import load_backbone
from maskformer.configuration import (
    DeepLabResNetConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
    TimmBackboneConfig,
)

TIMM_SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}


def save_backbone(model, path):
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return str(path)


def shaken(model):
    """With norms and statistics that are not all ones and zeros."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and ("norm" in name or "bn" in name):
                tensor.copy_(0.8 + 0.4 * torch.rand_like(tensor))
    return model.eval()


def backbone_of(model):
    return model.model.pixel_level_module.encoder.eval()


def timm_swin(*, window=4):
    return shaken(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=128,
            window_size=window,
            always_partition=True,
            num_classes=5,
            **TIMM_SWIN,
        )
    )


def our_swin(*, window=4):
    return with_backbone(MaskFormerSwinConfig(**TIMM_SWIN, window_size=window, out_features=STAGES))


@torch.no_grad()
def test_timms_swin_gives_its_features(tmp_path):
    theirs, ours = timm_swin(), our_swin()

    report = load_backbone(ours, save_backbone(theirs, tmp_path / "swin.safetensors"))

    assert all(name.startswith("hidden_states_norms.") for name in report.missing)
    # Every map is a multiple of the window, where padding and rolling agree.
    pixels = torch.randn(1, 3, 128, 128)
    expected = theirs.forward_intermediates(pixels, intermediates_only=True, norm=False)
    for found, wanted in zip(backbone_of(ours)(pixels), expected, strict=True):
        wanted = torch.nn.functional.layer_norm(wanted.permute(0, 2, 3, 1), wanted.shape[1:2])
        torch.testing.assert_close(found, wanted.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_swin_of_another_window_gets_its_tables_resized(tmp_path):
    theirs, ours = timm_swin(window=4), our_swin(window=7)

    load_backbone(ours, save_backbone(theirs, tmp_path / "swin.safetensors"))

    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    grid = theirs.state_dict()[table].T.reshape(1, 2, 7, 7)
    wanted = torch.nn.functional.interpolate(grid, size=(13, 13), mode="bicubic")
    name = "model.encoder.layers.1.blocks.0.attention.self.relative_position_bias_table"
    torch.testing.assert_close(
        backbone_of(ours).state_dict()[name], wanted.reshape(2, 169).T, atol=0, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet50", "resnet50s"])
def test_timms_resnet_gives_its_features(name, tmp_path):
    theirs = shaken(timm.create_model(name, num_classes=5))
    if name == "resnet50":
        config = ResNetConfig(out_features=STAGES)
    else:
        config = DeepLabResNetConfig(out_features=STAGES, depths=(3, 4, 6, 3), multi_grid=(1, 1, 1))
    ours = with_backbone(config)

    report = load_backbone(ours, save_backbone(theirs, tmp_path / "resnet.safetensors"))

    assert not report.missing
    pixels = torch.randn(1, 3, 64, 96)
    expected = theirs.forward_intermediates(pixels, intermediates_only=True)[-4:]
    for found, wanted in zip(backbone_of(ours)(pixels), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_any_backbone_of_timm_gets_its_weights(name, tmp_path):
    theirs = shaken(timm.create_model(name, num_classes=5))
    ours = with_backbone(TimmBackboneConfig(backbone=name, out_indices=[0, 1, 2, 3]))

    load_backbone(ours, save_backbone(theirs, tmp_path / "timm.safetensors"))

    pixels = torch.randn(1, 3, 64, 64)
    expected = theirs.forward_intermediates(pixels, intermediates_only=True)
    features = backbone_of(ours)(pixels)
    by_shape = {tuple(wanted.shape): wanted for wanted in expected}
    for found in features:
        torch.testing.assert_close(found, by_shape[tuple(found.shape)], atol=1e-4, rtol=1e-3)


def test_published_weights_of_timm_load(shared):
    ours = with_backbone(
        TimmBackboneConfig(backbone="tf_efficientnet_lite0", out_indices=[1, 2, 3, 4])
    )

    report = load_backbone(ours, str(shared / "weights/tf_efficientnet_lite0.safetensors"))

    assert report.missing == report.unexpected == ()


def test_detectron2s_imagenet_backbone_loads(tmp_path):
    trained = with_backbone(ResNetConfig(**SMALL))
    arrays = {
        name.removeprefix("backbone."): array
        for name, array in detectron2(shaken(trained)).items()
        if name.startswith("backbone.")
    }
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"model": arrays}))
    ours = with_backbone(ResNetConfig(**SMALL))

    load_backbone(ours, str(tmp_path / "R-50.pkl"))

    wanted = backbone_of(trained).state_dict()
    for name, tensor in backbone_of(ours).state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_the_backbone_of_a_trained_maskformer_loads_and_nothing_else_moves(tmp_path):
    trained, ours = make_tiny(), make_tiny()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    trained.save_pretrained(tmp_path)

    load_backbone(ours, str(tmp_path))

    wanted, before = trained.state_dict(), make_tiny().state_dict()
    for name, tensor in ours.state_dict().items():
        source = wanted if ".encoder." in name else before
        assert torch.equal(tensor, source[name]), name


@pytest.mark.parametrize("kind", ["missing", "unexpected", "shape", "another model"])
def test_weights_of_another_backbone_are_refused_by_name(kind, tmp_path):
    state = dict(timm_swin().state_dict())
    name = "layers.0.blocks.1.attn.proj.weight"
    if kind == "missing":
        del state[name]
    elif kind == "unexpected":
        state["layers.0.blocks.1.ls1.gamma"] = torch.ones(16)
    elif kind == "shape":
        state[name] = torch.ones(16, 17)
    else:
        state = timm.create_model("resnet18").state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")

    words = {
        "missing": "missing: model.encoder.layers.0.blocks.1.attention.output.dense.weight",
        "unexpected": "unexpected: .*layers.0.blocks.1.ls1.gamma",
        "shape": "output.dense.weight is 16x17, the model's 16x16",
        "another model": r"missing: .* and \d+ more; unexpected: embedder\..* and \d+ more",
    }
    with pytest.raises(ValueError, match=words[kind]) as error:
        load_backbone(our_swin(), str(tmp_path / "w.safetensors"))
    assert len(str(error.value)) < 1500

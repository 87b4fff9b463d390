"""Dialects: what Detectron2 called a weight is the weight that it was."""

import pickle
import re

import pytest
import torch
from tiny import make_tiny

from maskformer.checkpoints.checkpoint import load_weights
from maskformer.configuration import DeepLabResNetConfig, MaskFormerConfig, ResNetConfig
from maskformer.model import MaskFormerForInstanceSegmentation


def with_backbone(backbone, **values):
    given = {**make_tiny().config.to_dict(), "backbone_config": backbone.to_dict(), **values}
    torch.manual_seed(1)
    return MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(given)).eval()


SMALL = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 96, 128),
    "depths": (1, 2, 1, 3),
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
MODELS = {
    "swin": lambda: make_tiny(),
    "resnet": lambda: with_backbone(ResNetConfig(**SMALL, frozen_batch_norm=True)),
    "deeplab resnet": lambda: with_backbone(
        DeepLabResNetConfig(**SMALL, multi_grid=(1, 2, 4), frozen_batch_norm=True)
    ),
    "transformer encoder": lambda: with_backbone(
        ResNetConfig(**SMALL, frozen_batch_norm=True),
        pixel_decoder="transformer_encoder",
        transformer_in_feature="transformer_encoder",
    ),
}

PIXELS, PREDICTOR = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
ENCODER = r"^model\.pixel_level_module\.encoder\."
DECODER = r"^model\.pixel_level_module\.decoder\."
QUERIES = r"^model\.transformer_module\."

# From our names to Detectron2's, by the published table and apart from the code under test.
TO_DETECTRON2 = (
    (r"^criterion\.empty_weight$", "criterion.empty_weight"),
    (r"^class_predictor\.", f"{PREDICTOR}.class_embed."),
    (r"^mask_embedder\.(\d)\.0\.", rf"{PREDICTOR}.mask_embed.layers.\1."),
    (rf"{QUERIES}queries_embedder\.", f"{PREDICTOR}.query_embed."),
    (rf"{QUERIES}input_projection\.", f"{PREDICTOR}.input_proj."),
    (rf"{QUERIES}decoder\.layernorm\.", f"{PREDICTOR}.transformer.decoder.norm."),
    (rf"{QUERIES}decoder\.", f"{PREDICTOR}.transformer.decoder."),
    (rf"{DECODER}encoder\.input_projection", f"{PIXELS}.input_proj"),
    (rf"{DECODER}encoder\.", f"{PIXELS}.transformer.encoder."),
    (rf"{DECODER}mask_projection\.", f"{PIXELS}.mask_features."),
    (rf"{DECODER}fpn\.stem\.0\.", f"{PIXELS}.layer_4."),
    (rf"{DECODER}fpn\.stem\.1\.", f"{PIXELS}.layer_4.norm."),
    *(
        (
            rf"{DECODER}fpn\.layers\.{3 - n}\.{ours}\.{part}\.",
            f"{PIXELS}.{theirs}_{n}.{norm}",
        )
        for n in (3, 2, 1)
        for ours, theirs in (("proj", "adapter"), ("block", "layer"))
        for part, norm in ((0, ""), (1, "norm."))
    ),
    # Inside the transformers' layers.
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"(\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(\.layers\.\d+)\.encoder_attn\.", r"\1.multihead_attn."),
    (r"(transformer\..*\.layers\.\d+)\.fc([12])\.", r"\1.linear\2."),
    # Swin.
    (rf"{ENCODER}model\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.proj"),
    (rf"{ENCODER}model\.embeddings\.norm", "backbone.patch_embed.norm"),
    (rf"{ENCODER}hidden_states_norms\.", "backbone.norm"),
    (rf"{ENCODER}model\.encoder\.", "backbone."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.self\.", "attn."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    # ResNet.
    (rf"{ENCODER}embedder\.embedder\.(\d)\.", lambda m: f"backbone.stem.conv{int(m[1]) + 1}."),
    (rf"{ENCODER}embedder\.embedder\.", "backbone.stem.conv1."),
    (rf"{ENCODER}encoder\.stages\.(\d)\.layers\.", lambda m: f"backbone.res{int(m[1]) + 2}."),
    (r"\.layer\.(\d)\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.convolution\.", "."),
    (r"\.normalization\.", ".norm."),
)  # fmt: skip
JOINED = re.compile(r"\.(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)$")


def detectron2(model, *, version=2):
    """The model's weights as numpy arrays in Detectron2's names."""
    named, parts = {}, {}
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TO_DETECTRON2:
            name = re.sub(pattern, replacement, name)
        if found := JOINED.search(name):
            joined = ".qkv." if ".attn." in name else ".in_proj_"
            parts.setdefault(JOINED.sub(joined + found[2], name), []).append(tensor)
        else:
            named[name] = tensor
    named |= {name: torch.cat(three) for name, three in parts.items()}
    if version == 1:
        named = {name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): t
                 for name, t in named.items()}  # fmt: skip
    return {name: tensor.numpy() for name, tensor in named.items()}


def fresh_like(model):
    torch.manual_seed(7)
    other = MaskFormerForInstanceSegmentation(model.config)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.copy_(torch.ones_like(tensor))
    return other


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_there_and_back_is_the_same(kind, version, tmp_path):
    model = MODELS[kind]()
    with torch.no_grad():  # norms that are not all ones
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and name != "criterion.empty_weight":
                tensor.copy_(torch.randn_like(tensor))
    arrays = detectron2(model, version=version)
    assert not any(name.startswith(("model.", "class_", "mask_")) for name in arrays)
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    model.config.save_pretrained(tmp_path)

    loaded = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path / "model_final.pkl")

    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, tensor in loaded.state_dict().items():
        assert name == "criterion.empty_weight" or torch.equal(tensor, state[name]), name
    assert loaded.load_report.missing == loaded.load_report.unexpected == ()


def test_names_of_the_published_files_stand_in_the_table():
    names = detectron2(MODELS["transformer encoder"](), version=1)
    for name in (
        "backbone.stem.conv1.norm.running_mean",
        "backbone.res5.0.shortcut.norm.weight",
        "sem_seg_head.layer_4.norm.weight",
        "sem_seg_head.adapter_1.weight",
        "sem_seg_head.input_proj.bias",
        "sem_seg_head.transformer.encoder.layers.1.self_attn.in_proj_weight",
        "sem_seg_head.mask_features.bias",
        "sem_seg_head.predictor.transformer.decoder.layers.0.multihead_attn.out_proj.bias",
        "sem_seg_head.predictor.transformer.decoder.layers.2.norm3.weight",
        "sem_seg_head.predictor.mask_embed.layers.2.weight",
    ):
        assert name in names


def test_a_weight_of_detectron2_that_we_do_not_know_is_listed():
    model = make_tiny()
    arrays = {name: torch.from_numpy(a) for name, a in detectron2(model).items()}
    arrays["sem_seg_head.predictor.pixel_norm.weight"] = torch.ones(3)
    arrays["backbone.layers.0.blocks.0.attn.qkv.weight"] = torch.ones(47, 16)

    with pytest.raises(
        ValueError, match=r"unexpected: sem_seg_head\.predictor\.pixel_norm"
    ) as error:
        load_weights(fresh_like(model), arrays)
    assert "attention.self.key.weight is 47x16, the model's 16x16" in str(error.value)


def test_a_state_dict_of_transformers_5_loads(tmp_path):
    import transformers

    model = make_tiny()
    model.save_pretrained(tmp_path)
    theirs = transformers.MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    names = theirs.state_dict().keys()
    assert any(".mlp.fc1." in name and "decoder" in name for name in names)
    other = fresh_like(model)

    load_weights(other, theirs.state_dict())

    for name, tensor in model.state_dict().items():
        assert name == "criterion.empty_weight" or torch.equal(other.state_dict()[name], tensor)

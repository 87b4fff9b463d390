"""The model against transformers, and against itself: query first, auxiliary, half, compiled."""

from functools import cache

import pytest
import torch
import transformers
from tiny import STAGES, make_tiny

from maskformer.configuration import ResNetConfig, SwinConfig
from maskformer.model import MaskFormerForInstanceSegmentation, MaskFormerModel
from maskformer.network.positions import position_embedding

SIZES = [(64, 96), (100, 132), (224, 224), (512, 704), (33, 47)]


def swin_b():
    return SwinConfig(
        embed_dim=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        window_size=12,
        out_features=STAGES,
    )


BACKBONES = {
    "swin_t": lambda: SwinConfig(out_features=STAGES),
    "swin_b": swin_b,
    "resnet50": lambda: ResNetConfig(out_features=STAGES),
}
CAMVID = "maskformer-efficientnet-lite0-camvid"
# Swin-B is large: it sees the sizes that are no multiple of anything, and one that is.
PARITY = [
    *(("swin_t", size) for size in SIZES),
    *(("resnet50", size) for size in SIZES),
    *(("camvid", size) for size in SIZES),
    *(("swin_b", size) for size in ((100, 132), (33, 47), (224, 224))),
]


@cache
def saved_folder(name, root):
    """A folder that transformers saved, with random weights."""
    torch.manual_seed(0)
    backbone = transformers.AutoConfig.for_model(**BACKBONES[name]().to_dict())
    config = transformers.MaskFormerConfig(backbone_config=backbone, num_labels=17)
    folder = root / name
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    return folder


# One model at a time: two Swin-B in each of two libraries would fill a laptop.
@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    held = {}

    def load(name, shared):
        if name not in held:
            held.clear()
            folder = saved_folder(name, root) if shared is None else shared / "weights" / CAMVID
            theirs = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
                folder, attn_implementation="eager"
            )
            held[name] = (
                MaskFormerForInstanceSegmentation.from_pretrained(folder),
                theirs.eval(),
            )
        return held[name]

    return load


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), PARITY, ids=lambda v: v if isinstance(v, str) else None)
def test_every_output_is_that_of_transformers(both, name, size, request):
    shared = request.getfixturevalue("shared") if name == "camvid" else None
    ours, theirs = both(name, shared)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    asked = {"output_hidden_states": True, "output_attentions": True}

    output, expected = ours(pixels, **asked), theirs(pixels, **asked)

    assert list(output) == list(expected)
    for field in expected:
        torch.testing.assert_close(
            output[field], expected[field], atol=1e-4, rtol=1e-4, msg=lambda m, f=field: f"{f}: {m}"
        )
    if size == SIZES[0]:
        plain, expected = ours(pixels, return_dict=False), theirs(pixels, return_dict=False)
        assert [part.shape for part in plain] == [part.shape for part in expected]


@pytest.fixture
def tiny():
    return make_tiny()


def draw_masks(batch):
    masks = [(torch.rand(index + 1, 64, 96) > 0.5).float() for index in range(batch)]
    classes = [torch.arange(index + 1) % 4 for index in range(batch)]
    return {"mask_labels": masks, "class_labels": classes}


@torch.no_grad()
@pytest.mark.parametrize("kept", [[], [3], [9, 0, 4], list(range(10))], ids=len)
@pytest.mark.parametrize("way", ["kept_masks", "_masks_at_once"])
def test_masks_of_kept_queries_are_the_full_ones(tiny, kept, way):
    pixels = torch.randn(2, 3, 60, 90)
    full = tiny(pixels)
    kept_of_each = [torch.tensor(kept, dtype=torch.long), torch.tensor([5])]

    decoding = tiny.decode_queries(pixels)

    torch.testing.assert_close(decoding.class_queries_logits, full.class_queries_logits)
    for index, masks in enumerate(getattr(tiny, way)(decoding, kept_of_each)):
        expected = full.masks_queries_logits[index, kept_of_each[index]]
        scale = full.masks_queries_logits.abs().max()
        assert masks.shape == expected.shape
        torch.testing.assert_close(masks / scale, expected / scale, atol=1e-5, rtol=0)


@torch.no_grad()
def test_outputs_answer_by_attribute_key_and_position(tiny):
    output = tiny(torch.randn(1, 3, 64, 64))

    assert output["class_queries_logits"] is output.class_queries_logits is output[0]
    assert len(output) == len(output.to_tuple()) == 5
    assert "loss" not in output
    with pytest.raises(KeyError):
        output["loss"]
    with_states = tiny(torch.randn(1, 3, 64, 64), output_hidden_states=True)
    assert len(with_states.hidden_states) == 4 + 3 + 4


@torch.no_grad()
def test_auxiliary_logits_come_from_the_normed_layers_but_the_last():
    model = make_tiny(use_auxiliary_loss=True)
    pixels = torch.randn(1, 3, 64, 96)

    output = model(pixels, output_hidden_states=True)

    norm = model.model.transformer_module.decoder.layernorm
    assert len(output.auxiliary_logits) == 2
    for logits, state in zip(
        output.auxiliary_logits, output.transformer_decoder_hidden_states[1:], strict=False
    ):
        expected = model.class_predictor(norm(state))
        torch.testing.assert_close(logits["class_queries_logits"], expected)
    _, masks, auxiliary = model.get_logits(model.model(pixels, output_hidden_states=True))
    torch.testing.assert_close(masks, output.masks_queries_logits)
    assert len(auxiliary) == 2
    assert model(pixels, output_auxiliary_logits=False).auxiliary_logits is None
    assert make_tiny()(pixels).auxiliary_logits is None
    assert len(make_tiny()(pixels, output_auxiliary_logits=True).auxiliary_logits) == 2


def test_the_loss_is_the_weighted_sum_of_its_parts_without_hidden_states():
    model = make_tiny(use_auxiliary_loss=True, mask_weight=3.0, dice_weight=0.5)
    pixels, labels = torch.randn(2, 3, 64, 96), draw_masks(2)

    output = model(pixels, **labels)

    parts = model.criterion(
        output.masks_queries_logits,
        output.class_queries_logits,
        labels["mask_labels"],
        labels["class_labels"],
        output.auxiliary_logits,
    )
    weights = {"loss_mask": 3.0, "loss_dice": 0.5, "loss_cross_entropy": 1.0}
    expected = sum(weights[name.rstrip("_01")] * value for name, value in parts.items())
    assert len(parts) == 9
    torch.testing.assert_close(output.loss, expected)


def test_training_reaches_every_parameter():
    model = make_tiny(use_auxiliary_loss=True).train()

    model(torch.randn(2, 3, 64, 96), **draw_masks(2)).loss.backward()

    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_what_was_cached_in_inference_serves_training():
    model = make_tiny()
    pixels = torch.randn(1, 3, 44, 52)
    with torch.inference_mode():
        model(pixels)

    model.train()(pixels).masks_queries_logits.sum().backward()

    assert model.model.transformer_module.queries_embedder.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_is_finite_and_near_float32(tiny, way):
    pixels = torch.randn(1, 3, 64, 96)
    expected = tiny(pixels)

    if way == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = tiny(pixels)
    else:
        output = tiny.to(torch.bfloat16)(pixels.to(torch.bfloat16))

    for field in ("class_queries_logits", "masks_queries_logits"):
        ours, exact = output[field].float(), expected[field]
        assert ours.isfinite().all()
        assert (ours - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


@torch.no_grad()
def test_float16_autocast_is_finite_and_near_float32(tiny):
    pixels = torch.randn(1, 3, 64, 64)
    expected = tiny(pixels).class_queries_logits

    with torch.autocast("cpu", dtype=torch.float16):
        output = tiny(pixels).class_queries_logits

    torch.testing.assert_close(output.float(), expected, atol=0.03, rtol=0.03)


def test_positions_are_float32_until_the_end_unlike_transformers():
    device = torch.device("cpu")
    exact = position_embedding(40, 50, 64, device, torch.float32)
    half = position_embedding(40, 50, 64, device, torch.bfloat16)

    assert torch.equal(half, exact.to(torch.bfloat16))
    from transformers.models.maskformer.modeling_maskformer import MaskFormerSinePositionEmbedding

    theirs = MaskFormerSinePositionEmbedding(32, normalize=True)
    shape = torch.Size([1, 64, 40, 50])
    as_theirs = theirs(shape, device, torch.float32)[0].flatten(1).T
    torch.testing.assert_close(exact, as_theirs, atol=1e-4, rtol=1e-4)
    quantised = theirs(shape, device, torch.bfloat16)[0].flatten(1).T
    assert (quantised.float() - exact).abs().max() > 10 * (half.float() - exact).abs().max()


def test_fresh_queries_are_wide_and_the_decoder_is_xavier_unlike_transformers():
    model = MaskFormerModel(make_tiny().config)
    module = model.transformer_module

    assert 0.8 < module.queries_embedder.weight.std() < 1.2
    bound = (6 / (32 + 64)) ** 0.5
    assert bound * 0.9 < module.decoder.layers[0].fc1.weight.abs().max() <= bound


def test_a_decoder_that_norms_between_layers_is_refused():
    config = make_tiny().config
    config.decoder_config.auxiliary_loss = True
    with pytest.raises(ValueError, match=r"auxiliary_loss must be False.*use_auxiliary_loss"):
        MaskFormerModel(config)

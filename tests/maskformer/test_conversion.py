"""New labels for a trained model, and any dialect written as transformers does."""

import json
import logging
import pickle

import pytest
import torch
import transformers
from test_dialects import MODELS, SMALL, detectron2, with_backbone
from tiny import make_tiny

from maskformer import MaskFormerImageProcessor, check_forward, convert_weights, weights
from maskformer.configuration import MaskFormerConfig, ResNetConfig, TimmBackboneConfig
from maskformer.model import MaskFormerForInstanceSegmentation, MaskFormerModel
from maskformer.zoo import MODELS as MODELS_OF_ZOO

OLD = {0: "sky", 1: "road", 2: "tree", 3: "road"}


@pytest.fixture
def trained_in_transformers(tmp_path):
    model = make_tiny(id2label=OLD)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def load_converted(folder, **values):
    return MaskFormerForInstanceSegmentation.from_pretrained(folder, **values)


def test_labels_of_the_same_name_keep_their_rows_and_the_others_start_afresh(
    trained_in_transformers, caplog
):
    old, folder = trained_in_transformers
    labels = ["car", "road", "Sky", "sky", "bus"]

    with caplog.at_level(logging.INFO):
        new = load_converted(folder, labels=labels)

    for kind in ("weight", "bias"):
        was, now = (getattr(m.class_predictor, kind) for m in (old, new))
        assert len(now) == 6
        # The first of the two ways; "no object" is the last row.
        for before, after in ((1, 1), (0, 3), (4, 5)):
            assert torch.equal(now[after], was[before])
        for row in (0, 2, 4):
            assert not any(torch.equal(now[row], other) for other in was)
    assert new.config.id2label == dict(enumerate(labels))
    assert new.config.label2id["bus"] == 4
    assert new.load_report.kept_labels == ("road", "sky")
    assert new.load_report.fresh_labels == ("car", "Sky", "bus")
    assert not new.load_report.missing
    assert "2 of 5 labels kept by name (road, sky); afresh: car, Sky, bus" in caplog.text
    assert torch.equal(new.mask_embedder[0][0].weight, old.mask_embedder[0][0].weight)


def test_the_same_labels_in_another_order_give_the_same_classes(trained_in_transformers):
    old, folder = trained_in_transformers
    pixels = torch.randn(1, 3, 64, 64)

    new = load_converted(folder, labels=["tree", "sky", "road"])

    with torch.no_grad():
        before, after = (m(pixels).class_queries_logits for m in (old, new))
    torch.testing.assert_close(after, before[..., [2, 0, 1, 4]])


def test_new_labels_can_be_saved_and_loaded(trained_in_transformers, tmp_path):
    _, folder = trained_in_transformers
    new = load_converted(folder, labels=["road", "car"])
    new.save_pretrained(tmp_path / "new")

    again = load_converted(tmp_path / "new")

    assert torch.equal(again.class_predictor.weight, new.class_predictor.weight)
    assert again.load_report.kept_labels == ()


def test_labels_that_make_no_sense_are_refused(trained_in_transformers):
    _, folder = trained_in_transformers

    with pytest.raises(ValueError, match=r"each once, got \['road'\] more than once"):
        load_converted(folder, labels=["road", "car", "road"])
    with pytest.raises(ValueError, match="a list of names"):
        load_converted(folder, labels=[])
    with pytest.raises(ValueError, match="num_labels, id2label and label2id have no effect"):
        load_converted(folder, labels=["road"], num_labels=1)
    with pytest.raises(ValueError, match="no effect on a model without a class head"):
        MaskFormerModel.from_pretrained(folder, labels=["road"])
    # The configuration must be that of the trained head.
    config = MaskFormerConfig.from_pretrained(folder, num_labels=9)
    with pytest.raises(ValueError, match="the configuration's 9 labels"):
        load_converted(folder, config=config, labels=["road"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_what_is_converted_gives_the_same_in_transformers(kind, tmp_path):
    model = MODELS[kind]()
    source, config, out = tmp_path / "final.pkl", tmp_path / "c.json", tmp_path / "out"
    source.write_bytes(pickle.dumps({"model": detectron2(model, version=1)}))
    model.config.to_json_file(config)

    convert_weights(str(source), str(out), config_file=str(config))

    theirs, info = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(info.values()), info
    pixels = torch.randn(1, 3, 64, 96)
    output, expected = theirs.eval()(pixels), model(pixels)
    for field in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(output[field], expected[field], atol=1e-4, rtol=1e-4)


def test_a_model_of_the_zoo_converts_by_its_name_and_gives_the_same_in_transformers(tmp_path):
    torch.manual_seed(0)
    name = "maskformer-resnet50-ade20k"
    config = MaskFormerConfig.from_dict(MODELS_OF_ZOO[name].config)
    model = MaskFormerForInstanceSegmentation(config).eval()
    source, out = tmp_path / "r50.pkl", tmp_path / "out"
    source.write_bytes(pickle.dumps({"model": detectron2(model, version=1)}))

    convert_weights(str(source), str(out), zoo_name=name)

    assert MaskFormerConfig.from_pretrained(out).id2label == config.id2label
    assert (out / "preprocessor_config.json").is_file()
    theirs = transformers.MaskFormerForInstanceSegmentation.from_pretrained(out)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output, expected = theirs.eval()(pixels), model(pixels)
    for field in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(output[field], expected[field], atol=1e-4, rtol=1e-4)


def test_a_name_that_is_not_in_the_zoo_is_one_line(tmp_path):
    near = r"got 'maskformer-resnet5-ade' \(near: maskformer-resnet50-ade20k\).*$"
    with pytest.raises(ValueError, match=near):
        convert_weights(str(tmp_path), str(tmp_path / "out"), zoo_name="maskformer-resnet5-ade")


def test_a_folder_converts_with_its_image_processor_and_in_its_own_type(
    trained_in_transformers, tmp_path
):
    model, folder = trained_in_transformers
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 640}')

    convert_weights(str(folder), str(tmp_path / "out"))

    assert load_converted(tmp_path / "out", dtype="auto").dtype == torch.bfloat16
    assert (tmp_path / "out/preprocessor_config.json").read_text() == '{"size": 640}'


def test_weights_are_written_in_the_type_that_is_asked_for(trained_in_transformers, tmp_path):
    model, folder = trained_in_transformers
    model.save_pretrained(folder)

    convert_weights(str(folder), str(tmp_path / "out"), dtype="float16")

    halved = load_converted(tmp_path / "out", dtype="auto").state_dict()
    assert all(
        torch.equal(halved[n], w.half())
        for n, w in model.state_dict().items()
        if w.is_floating_point()
    )


def test_a_file_needs_a_configuration_from_somewhere(trained_in_transformers, tmp_path):
    _, folder = trained_in_transformers
    (tmp_path / "alone").mkdir()
    alone = (folder / "model.safetensors").rename(tmp_path / "alone/model.safetensors")

    with pytest.raises(ValueError, match=r"needs config.json beside it.*$"):
        convert_weights(str(alone), str(tmp_path / "out"))

    assert not (tmp_path / "out").exists()
    config = MaskFormerConfig.from_pretrained(folder)
    assert load_converted(alone, config=config).config.id2label == OLD


def test_weights_of_another_shape_are_found_out_without_torch_in_this_process(
    trained_in_transformers,
):
    _, folder = trained_in_transformers
    weights.check_shapes(str(folder))
    values = json.loads((folder / "config.json").read_text())
    values["decoder_config"]["decoder_ffn_dim"] = 2**40
    (folder / "config.json").write_text(json.dumps(values))

    # A model of this size would not fit into any memory.
    with pytest.raises(ValueError, match=r"fc1\.bias is 64, the model's 1099511627776") as error:
        weights.check_shapes(str(folder))
    assert "\n" not in str(error.value)
    assert "more. Allow by name" in str(error.value)


def test_a_processor_that_does_not_fit_is_found_out(trained_in_transformers):
    _, folder = trained_in_transformers
    MaskFormerImageProcessor().save_pretrained(folder)
    weights.check_shapes(str(folder))
    path = folder / "preprocessor_config.json"
    fitting = json.loads(path.read_text())
    for values, message in (
        ({"pad_size": {"height": 64, "width": 0}}, "must take 1 RGB images of 64 x 0 pixels"),
        ({"image_std": "grey"}, r"preprocessor_config\.json must hold the settings of an image"),
    ):
        path.write_text(json.dumps({**fitting, **values}))
        with pytest.raises(ValueError, match=message):
            weights.check_shapes(str(folder))


def test_a_model_that_takes_other_images_than_photographs_is_found_out(tmp_path):
    backbone = TimmBackboneConfig(
        backbone="vit_tiny_patch16_224", out_indices=[8, 9, 10, 11], num_channels=3
    )
    with torch.device("meta"):
        model = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=backbone))
    check_forward(model.eval(), size=(224, 224))
    with pytest.raises(ValueError, match=r"1 RGB images of 256 x 352 pixels.*Input height"):
        check_forward(model, size=(256, 352))


def test_a_resnet_that_transformers_would_train_otherwise_still_loads_there(tmp_path):
    with_backbone(ResNetConfig(**SMALL, frozen_batch_norm=True)).save_pretrained(tmp_path)

    theirs = transformers.MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)

    assert theirs.config.backbone_config.model_type == "resnet"

"""What training begins with."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_training import tiny_config, tiny_model

from maskformer import MaskFormerConfig, MaskFormerImageProcessor
from pipeline.datasets.label_values import LabelValues
from pipeline.training.initial_model import StartSettings, build_model, read_start, reduced_labels

LABELS = ("road", "sky", "boat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained model with four labels, two of which are road and sky."""
    names = dict(enumerate(["car", "sky", "road", "tree"]))
    tiny_model(id2label=names, num_labels=None).save_pretrained(tmp_path)
    MaskFormerImageProcessor(size={"shortest_edge": 96}).save_pretrained(tmp_path)
    return tmp_path


def test_a_trained_model_keeps_what_it_knows_of_labels_with_the_same_names(folder: Path):
    start = read_start(StartSettings(model=str(folder)), labels=LABELS)
    model = build_model(pickle.loads(pickle.dumps(start)), seed=0)
    old = tiny_model().class_predictor.weight
    assert model.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(model.class_predictor.weight[0], old[2])
    assert torch.equal(model.class_predictor.weight[1], old[1])
    assert torch.equal(model.class_predictor.weight[3], old[4])
    assert start.processor.size == {"shortest_edge": 96}
    assert start.processor.num_labels == len(LABELS)


def test_of_a_backbone_s_weights_the_rest_is_fresh_and_the_same_everywhere(
    folder: Path, tmp_path: Path
):
    encoder = tiny_model().model.pixel_level_module.encoder
    torch.manual_seed(5)
    weights = {name: torch.randn_like(value) for name, value in encoder.state_dict().items()
               if value.is_floating_point() and "hidden_states_norms" not in name}  # fmt: skip
    (tmp_path / "alone").mkdir()
    save_file(weights, tmp_path / "alone" / "backbone.safetensors")
    settings = StartSettings(
        model=str(tmp_path / "alone" / "backbone.safetensors"),
        architecture={
            "backbone_config": tiny_config().backbone_config.to_dict(),
            "decoder_config": tiny_config().decoder_config.to_dict(),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        image_processor={"size": {"shortest_edge": 96, "longest_edge": 200}},
    )
    start = read_start(settings, labels=LABELS)
    one, two = build_model(start, seed=0), build_model(start, seed=0)
    found = one.model.pixel_level_module.encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value), name
    assert one.config.num_labels == len(LABELS)
    assert start.processor.size == {"shortest_edge": 96, "longest_edge": 200}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--model must name what to begin with"),
        ({"architecture": "no-such-model"}, "--architecture must be a name of the zoo"),
        ({"architecture": {"num_querys": 3, "backbone_config": {"model_type": "x"}}}, "model_type"),
        (
            {"architecture": "maskformer-swin-tiny-ade20k", "image_processor": {"sizes": 3}},
            "--image_processor",
        ),
    ],
)
def test_what_cannot_be_begun_with_is_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        read_start(StartSettings(**values), labels=LABELS)


def test_weights_alone_need_an_architecture(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    settings = StartSettings(model=str(tmp_path / "backbone.safetensors"))
    with pytest.raises(ValueError, match=r"has no config\.json.*--architecture"):
        read_start(settings, labels=LABELS)


def test_what_the_data_says_of_things_goes_with_the_model_and_what_was_learnt_before_does_not(
    folder: Path, tmp_path: Path
):
    config = tiny_config(id2label=dict(enumerate(["car", "sky", "road", "tree"])), things=[0, 3])
    config.save_pretrained(folder)
    for things, expected in ((frozenset({2}), [2]), (frozenset(), []), (None, None)):
        start = read_start(StartSettings(model=str(folder)), labels=LABELS, things=things)
        build_model(start, seed=0).save_pretrained(tmp_path / "out")
        saved = MaskFormerConfig.from_pretrained(tmp_path / "out")
        assert saved.things == expected
        assert saved.id2label == dict(enumerate(LABELS))


def test_the_rule_by_which_maps_were_read_goes_with_the_model(folder: Path):
    settings = StartSettings(model=str(folder))
    assert reduced_labels(settings) is None
    reduced = LabelValues(ignore_index=254, reduce_labels=True)
    processor = read_start(settings, labels=LABELS, values=reduced).processor
    assert (processor.do_reduce_labels, processor.ignore_index) == (True, 254)
    processor.save_pretrained(folder)
    assert reduced_labels(settings) == ("car", "sky", "road", "tree")
    plain = LabelValues(ignore_index=255)
    assert not read_start(settings, labels=LABELS, values=plain).processor.do_reduce_labels


def test_models_of_the_zoo_know_that_ade20k_counts_from_one():
    names = reduced_labels(StartSettings(architecture="maskformer-swin-tiny-ade20k"))
    assert names is not None
    assert (len(names), names[0]) == (150, "wall")
    assert reduced_labels(StartSettings(architecture="maskformer-swin-tiny-coco-panoptic")) is None


def test_two_labels_of_one_name_are_refused():
    settings = StartSettings(architecture="maskformer-swin-tiny-ade20k")
    with pytest.raises(ValueError, match=r"labels must each have a name .* more than once: car"):
        read_start(settings, labels=("car", "sky", "car"))

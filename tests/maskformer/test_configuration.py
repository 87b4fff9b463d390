"""The configurations against transformers', field by field and file by file."""

import json
import subprocess
import sys

import pytest
import transformers
from transformers.models.maskformer.configuration_maskformer import (
    MaskFormerDetrConfig as TheirDetrConfig,
)
from transformers.models.maskformer.configuration_maskformer_swin import (
    MaskFormerSwinConfig as TheirSwinConfig,
)

from maskformer.configuration import (
    MaskFormerConfig,
    MaskFormerDetrConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
)

# Theirs alone: where an object came from and which program wrote it.
BOOKKEEPING = {"_name_or_path", "transformers_version", "use_pretrained_backbone"}
# Ours alone, as transformers' plain Swin has them.
DERIVED = {"num_layers"}

PAIRS = [
    (MaskFormerConfig(), transformers.MaskFormerConfig()),
    (MaskFormerDetrConfig(), TheirDetrConfig()),
    (MaskFormerSwinConfig(), TheirSwinConfig()),
    (SwinConfig(), transformers.SwinConfig()),
    (ResNetConfig(), transformers.ResNetConfig()),
    (
        TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2]),
        transformers.TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2]),
    ),
]


def differences(ours, theirs, path=""):
    for key in sorted((ours.keys() | theirs.keys()) - BOOKKEEPING - DERIVED):
        a, b = ours.get(key, "absent"), theirs.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict) and key.endswith("_config"):
            yield from differences(a, b, f"{path}{key}.")
        elif a != b and (key, b) != ("out_features", None):
            yield f"{path}{key}: {a!r} is not {b!r}"


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda c: type(c).__name__)
def test_every_field_has_the_default_of_transformers(ours, theirs):
    assert list(differences(ours.to_dict(), theirs.to_dict())) == []


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_hidden_layers"])
def test_derived_values_are_those_of_transformers(name):
    assert getattr(MaskFormerConfig(), name) == getattr(transformers.MaskFormerConfig(), name)
    assert getattr(MaskFormerDetrConfig(), name) == getattr(TheirDetrConfig(), name)


def tiny_configuration(**values):
    backbone = SwinConfig(embed_dim=32, depths=(1, 1), num_heads=(2, 4), window_size=4)
    decoder = MaskFormerDetrConfig(d_model=64, num_queries=7, decoder_layers=2)
    return MaskFormerConfig.from_backbone_and_decoder_configs(backbone, decoder, **values)


def test_a_config_is_composed_of_a_backbone_and_a_decoder():
    config = tiny_configuration(num_labels=5, mask_weight=3.0)

    assert config.backbone_config.embed_dim == 32
    assert config.decoder_config.num_queries == 7
    assert (config.num_labels, config.mask_weight) == (5, 3.0)


def test_json_gives_back_what_went_in(tmp_path):
    config = tiny_configuration(id2label={0: "sky", 1: "road", 2: "tree"}, use_auxiliary_loss=True)
    config.save_pretrained(tmp_path)

    assert MaskFormerConfig.from_pretrained(tmp_path) == config
    assert MaskFormerConfig.from_dict(json.loads(config.to_json_string())) == config


def test_labels_and_their_number_are_tied():
    config = tiny_configuration(id2label={"0": "sky", "1": "road", "2": "tree"})

    assert config.num_labels == 3
    assert config.id2label == {0: "sky", 1: "road", 2: "tree"}
    assert config.label2id == {"sky": 0, "road": 1, "tree": 2}
    config.num_labels = 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    with pytest.raises(ValueError, match="num_labels must be the length of id2label, got 4"):
        tiny_configuration(id2label={0: "sky"}, num_labels=4)


def test_overrides_win_over_the_file(tmp_path):
    tiny_configuration(id2label={0: "sky", 1: "road"}).save_pretrained(tmp_path)

    assert MaskFormerConfig.from_pretrained(tmp_path, num_labels=9).num_labels == 9
    labels = MaskFormerConfig.from_pretrained(tmp_path, id2label={0: "car"})
    assert labels.label2id == {"car": 0}


def test_a_file_of_transformers_4_with_other_keys_loads(tmp_path):
    values = {
        "_commit_hash": "1234",
        "architectures": ["MaskFormerForInstanceSegmentation"],
        "backbone": None,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone_kwargs": None,
        "backbone_config": {
            "model_type": "swin",
            "embed_dim": 96,
            "depths": [2, 2, 6, 2],
            "num_heads": [3, 6, 12, 24],
            "num_beams": 1,
            "torchscript": False,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
            "path_norm": True,
        },
        "decoder_config": {"model_type": "detr", "max_position_embeddings": 1024, "scale": None},
        "fpn_feature_size": 256,
        "id2label": {"0": "wall", "1": "floor", "2": "sky"},
        "label2id": {"wall": 0, "floor": 1, "sky": 2},
        "model_type": "maskformer",
        "num_queries": 100,
        "torch_dtype": "float32",
        "transformers_version": "4.18.0.dev0",
    }
    (tmp_path / "config.json").write_text(json.dumps(values))

    config = MaskFormerConfig.from_pretrained(tmp_path)

    assert (config.num_labels, config.dtype) == (3, "float32")
    assert config.backbone_config.out_indices == [1, 2, 3, 4]


def test_a_timm_backbone_asked_for_by_name_as_in_transformers_4():
    config = MaskFormerConfig(backbone="resnet18", use_timm_backbone=True)

    assert isinstance(config.backbone_config, TimmBackboneConfig)
    assert config.backbone_config.out_indices == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "backbone",
    [
        SwinConfig(embed_dim=32, out_features=["stage1", "stage2", "stage3", "stage4"]),
        ResNetConfig(out_indices=[1, 2, 3, 4]),
        TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4]),
    ],
    ids=lambda config: config.model_type,
)
def test_what_we_write_loads_in_transformers_and_what_they_write_here(backbone, tmp_path):
    ours = MaskFormerConfig(backbone_config=backbone, num_labels=4, no_object_weight=0.2)
    ours.save_pretrained(tmp_path / "ours")

    theirs = transformers.MaskFormerConfig.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    back = MaskFormerConfig.from_pretrained(tmp_path / "theirs")

    assert list(differences(ours.to_dict(), theirs.to_dict())) == []
    assert list(differences(ours.to_dict(), back.to_dict())) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone_config": {"model_type": "hiera"}}, "backbone_config.model_type .* got 'hiera'"),
        ({"decoder_config": {"model_type": "bart"}}, "decoder_config.model_type .* got 'bart'"),
        ({"model_type": "detr"}, "model_type must be 'maskformer', got 'detr'"),
        (
            {"backbone_config": {"model_type": "swin", "out_features": ["stage9"]}},
            "out_features must be some of .* got \\['stage9'\\]",
        ),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "x"}}, "layer_type .* got 'x'"),
    ],
)
def test_an_architecture_that_we_do_not_have_is_named_with_its_file(values, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))

    with pytest.raises(ValueError, match=message) as error:
        MaskFormerConfig.from_pretrained(tmp_path)

    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_field_that_does_not_exist_is_an_error():
    with pytest.raises(TypeError, match="no field 'num_querys'"):
        MaskFormerDetrConfig(num_querys=3)


def test_configurations_and_folders_are_read_without_torch():
    program = (
        "import sys, maskformer.configuration, maskformer.weights;"
        "maskformer.configuration.MaskFormerConfig();"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_things_are_written_where_they_are_known_and_transformers_passes_over_them(tmp_path):
    names = dict(enumerate(["road", "sky", "car"]))
    config = tiny_configuration(id2label=names, things=[2])
    assert config.stuff == {0, 1}
    config.save_pretrained(tmp_path)
    assert MaskFormerConfig.from_pretrained(tmp_path) == config
    theirs = transformers.MaskFormerConfig.from_pretrained(tmp_path)
    assert (theirs.decoder_config.model_type, theirs.id2label) == ("detr", names)
    theirs.save_pretrained(tmp_path / "theirs")
    assert MaskFormerConfig.from_pretrained(tmp_path / "theirs").things == [2]
    assert "things" not in tiny_configuration(id2label=names).to_dict()
    assert tiny_configuration(id2label=names).stuff is None


def test_labels_that_are_named_anew_have_no_known_things():
    config = tiny_configuration(id2label={0: "road", 1: "car"}, things=[1])
    for change in ({"id2label": {0: "a", 1: "b"}}, {"num_labels": 2}):
        assert MaskFormerConfig.from_dict(config.to_dict(), **change).things is None
    assert MaskFormerConfig.from_dict(config.to_dict(), dice_weight=2.0).things == [1]
    config.num_labels = 5
    assert config.things is None
    with pytest.raises(ValueError, match=r"things must be ids of labels, 0 to 1, got \[2\]"):
        tiny_configuration(id2label={0: "road", 1: "car"}, things=[2])

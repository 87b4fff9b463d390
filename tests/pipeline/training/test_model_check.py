"""What does not go together is found without a worker, and without memory for a model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import put
from drawn_labels import LABELS, panoptic_shards, scenes
from tiny_training import tiny_config, tiny_model

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.training.initial_model import StartSettings, read_start
from pipeline.training.model_check import check_training_model
from pipeline.training.optimisation import OptimisationSettings, check_device
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that knows two of the data's labels."""
    names = dict(enumerate([LABELS[1], "moon", LABELS[0]]))
    path = tmp_path / "model"
    tiny_model(id2label=names, num_labels=None).save_pretrained(path)
    MaskFormerImageProcessor(size={"shortest_edge": 64}).save_pretrained(path)
    return path


def check(
    tmp_path: Path,
    *,
    start: dict[str, Any],
    augmentation: Augmentation | None = None,
    **optimisation: Any,
) -> Any:
    dataset = open_labelled(
        DatasetSettings(dataset=put(tmp_path / "data", panoptic_shards(scenes())))
    )
    begun = read_start(StartSettings(**start), labels=dataset.labels.names)
    data = TrainingData(
        dataset=dataset,
        augmentation=augmentation or Augmentation(),
        processor=begun.processor,
        seed=0,
    )
    settings = OptimisationSettings(**optimisation)
    return check_training_model(begun, data=data, optimisation=settings, num_images=2)


def test_a_model_that_fits_says_which_labels_go_on(folder: Path, tmp_path: Path):
    kept = check(tmp_path, start={"model": str(folder)})
    assert kept.kept_labels == (LABELS[0], LABELS[1])
    assert kept.fresh_labels == tuple(LABELS[2:])


VIT = {
    "model_type": "timm_backbone",
    "backbone": "vit_tiny_patch16_224",
    "out_indices": [8, 9, 10, 11],
}


@pytest.mark.parametrize(
    ("start", "others", "message"),
    [
        ({}, {"frozen_weights": ("nonsense",)}, "'nonsense' matches none"),
        ({}, {"frozen_weights": ("*",)}, "frozen_weights must leave weights to learn"),
        ({}, {"batch_norm": "frozen"}, "batch_norm frozen has no effect"),
        (
            {"image_processor": {"pad_size": {"height": 32, "width": 32}}},
            {},
            "cannot be padded from .* to a smaller",
        ),
        ({"image_processor": {"pad_size": {"height": 32}}}, {}, "pad_size must have the keys"),
        (
            {"model": None, "architecture": {"backbone_config": VIT}},
            {},
            "must take 2 RGB images of .* Input height",
        ),
        (
            {"architecture": {"backbone_config": {"model_type": "swin"}}},
            {},
            "two maps of the backbone or more",
        ),
        (
            {"architecture": {"backbone_config": tiny_config().backbone_config.to_dict(),
                              "decoder_config": {"model_type": "detr", "d_model": 30}}},
            {},
            "d_model must be a multiple of 4, got 30",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, start: dict, others: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        check(tmp_path, start={"model": str(folder), **start}, **others)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id2label": {"0": "a", "7": "b"}}, r"config\.json: id2label must number its 2 labels"),
        ({"id2label": ["a", "b"]}, r"config\.json holds a value of the wrong kind"),
        ({"model_type": "detr"}, "model_type must be 'maskformer', got 'detr'"),
        ({"fpn_feature_size": 64}, r"weights in .*model must be those of its configuration"),
        ({"fpn_feature_size": "wide"}, "no model can be built of the configuration of .*model"),
    ],
)
def test_a_folder_whose_parts_are_not_of_one_model_is_refused(
    folder: Path, tmp_path: Path, values: dict, message: str
):
    change_config(folder, **values)
    with pytest.raises(ValueError, match=message):
        check(tmp_path, start={"model": str(folder)})


def test_a_cut_file_of_weights_is_refused(folder: Path, tmp_path: Path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors must have .* copy it again"):
        check(tmp_path, start={"model": str(folder)})
    weights.unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"it names model-00001-of-00002\.safetensors"):
        check(tmp_path, start={"model": str(folder)})


def test_nothing_of_the_model_is_made_in_memory(folder: Path, tmp_path: Path, monkeypatch):
    made = []
    original = torch.nn.Module.load_state_dict
    monkeypatch.setattr(
        torch.nn.Module, "load_state_dict", lambda *a, **k: made.append(a) or original(*a, **k)
    )
    check(tmp_path, start={"model": str(folder)})
    assert not made


def test_batch_norm_of_all_workers_needs_gpus():
    settings = OptimisationSettings(batch_norm="synchronised")
    check_device(settings, device="cuda")
    with pytest.raises(ValueError, match="batch_norm synchronised needs GPUs, the model is on cpu"):
        check_device(settings, device="cpu")

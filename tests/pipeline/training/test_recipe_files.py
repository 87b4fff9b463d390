"""Published recipes by name, and the recipes of configs/finetune: settings that training takes."""

from pathlib import Path

import pytest

from maskformer import MODELS
from maskformer.zoo import Entry
from pipeline.cli.running import run_job
from pipeline.runtime.settings import parse
from pipeline.training.recipes import Augmentation, published_augmentation, recipe_settings
from pipeline.training.settings import (
    PARTS,
    FinetuneSettings,
    OptimisationSettings,
    StartSettings,
    TargetSettings,
    TrainingSets,
    ValidationSettings,
    WorkerSettings,
)

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"
DATA = ["--dataset", "data", "--output", "out", "--validation", "val"]


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_each_published_model_has_its_recipe(entry: Entry):
    settings = parse(PARTS, arguments=DATA, preset=recipe_settings(entry.name))
    recipe, optimisation = entry.recipe, settings.of(OptimisationSettings)
    for name in ("num_steps", "batch_size", "learning_rate", "weight_decay", "backbone_rate",
                 "schedule", "power", "warmup_steps", "clip_norm"):  # fmt: skip
        assert getattr(optimisation, name) == getattr(recipe, name), name
    assert optimisation.decay_steps == recipe.steps
    if recipe.warmup_steps:
        assert optimisation.warmup_share == recipe.warmup_share
    assert settings.of(Augmentation) == published_augmentation(entry.name)
    assert settings.of(TargetSettings).task == entry.task
    assert settings.of(StartSettings).architecture == entry.name
    assert (
        str(settings.of(StartSettings).model).split("/")[-1]
        in (entry.backbone.imagenet.rsplit("/", 1)[-1])
    )
    assert optimisation.batch_size % settings.of(WorkerSettings).num_workers == 0
    assert settings.of(FinetuneSettings).checkpoint_every == 5000
    if entry.thresholds is not None:
        assert settings.of(ValidationSettings).threshold == entry.thresholds.threshold
    if entry.task == "semantic":
        dataset = settings.of(TrainingSets)
        assert dataset.ignore_index == entry.dataset.ignore_index
        assert bool(dataset.reduce_labels) == entry.dataset.zero_is_ignored


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "resnet101c-cityscapes",
            {
                "model": "R-103.pkl", "architecture": "maskformer-resnet101c-cityscapes",
                "task": "semantic", "ignore_index": 255, "num_workers": 8, "num_steps": 90000,
                "batch_size": 16, "learning_rate": 1e-4, "weight_decay": 1e-4,
                "backbone_rate": 0.1, "schedule": "polynomial", "max_edge": 4096,
                "crop": (512, 1024), "colour_jitter": True, "checkpoint_every": 5000,
                "short_edges": (512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536,
                                1638, 1740, 1843, 1945, 2048),
            },
        ),
        (
            "swin-tiny-coco-panoptic",
            {
                "model": "timm/swin_tiny_patch4_window7_224.ms_in1k",
                "architecture": "maskformer-swin-tiny-coco-panoptic", "task": "panoptic",
                "num_workers": 64, "num_steps": 554400, "batch_size": 64, "learning_rate": 6e-5,
                "weight_decay": 0.01, "backbone_rate": 1.0, "schedule": "steps",
                "decay_steps": (369600,), "warmup_steps": 1500, "warmup_share": 1e-6,
                "short_edges": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
                "max_edge": 1333, "crop_range": (384, 600), "threshold": 0.8,
                "checkpoint_every": 5000,
            },
        ),
    ],
)  # fmt: skip
def test_a_recipe_says_what_differs_from_the_defaults(name, values):
    assert recipe_settings(name) == values
    assert recipe_settings(f"maskformer-{name}") == values


def test_what_the_user_says_comes_before_the_recipe(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("num_steps: 7\nbatch_size: 8\n")
    words = [*DATA, "--config", str(config), "--batch_size=4"]
    settings = parse(PARTS, arguments=words, preset=recipe_settings("swin-tiny-ade20k"))
    optimisation = settings.of(OptimisationSettings)
    assert (optimisation.num_steps, optimisation.batch_size) == (7, 4)
    assert optimisation.learning_rate == 6e-5


def test_a_printed_recipe_is_a_file_that_says_the_same(tmp_path, capsys):
    name = "swin-tiny-coco-panoptic"
    assert run_job("train", [f"--recipe={name}", "--print-config", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    purpose, command, hardware, score, *_ = printed.splitlines()
    assert purpose == (
        "# Panoptic segmentation of COCO panoptic, 133 labels, with Swin-T: the published recipe."
    )
    assert f"maskformer train --recipe {name} --dataset URI" in command
    assert hardware.startswith("# 64 GPUs of 32 GB, 1 image each, as published")
    assert "Faster, and not published: precision bf16, tf32, compile." in hardware
    assert parse(PARTS, arguments=DATA, preset=recipe_settings(name)).of(
        OptimisationSettings
    ).tf32 is (False)
    assert score.startswith("# Expect 47.7 PQ on the validation set")
    assert "# dataset: URI\n" in printed
    (tmp_path / "mine.yaml").write_text(printed)
    again = parse(PARTS, arguments=[*DATA, "--config", str(tmp_path / "mine.yaml")])
    expected = parse(PARTS, arguments=[*DATA, "--seed=3"], preset=recipe_settings(name))
    assert again == expected


def test_an_unknown_recipe_is_one_line_with_the_nearest_name(capsys):
    assert run_job("train", ["--recipe", "swin-tinny-ade20k", *DATA]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "no published model swin-tinny-ade20k; did you mean swin-tiny-ade20k?" in line


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_says_what_it_is_for_and_is_taken(path: Path):
    purpose, command, *others = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in (purpose, command, *others))
    assert f"--config configs/finetune/{path.name}" in command
    words = ["--config", str(path), *DATA]
    words += [] if "model:" in path.read_text() else ["--model", "weights"]
    parse(PARTS, arguments=words)

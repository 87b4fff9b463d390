"""The recipes of configs/finetune: what is published, as files that the job takes."""

from pathlib import Path

import pytest

from maskformer import MODELS
from maskformer.zoo import Entry
from pipeline.datasets.settings import DatasetSettings
from pipeline.runtime.settings import Settings, parse
from pipeline.training.initial_model import StartSettings
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.recipes import Augmentation, published_augmentation
from pipeline.training.settings import PARTS, TargetSettings

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"


def read(path: Path) -> Settings:
    words = ["--config", str(path), "--dataset", "data", "--output", "out", "--validation", "val"]
    words += [] if "model:" in path.read_text() else ["--model", "weights"]
    return parse(PARTS, arguments=words, description="")


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_each_published_model_has_its_recipe(entry: Entry):
    settings = read(FOLDER / f"{entry.name.removeprefix('maskformer-')}.yaml")
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
    if entry.task == "semantic":
        dataset = settings.of(DatasetSettings)
        assert dataset.ignore_index == entry.dataset.ignore_index
        assert bool(dataset.reduce_labels) == entry.dataset.zero_is_ignored


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_says_what_it_is_for_and_is_taken(path: Path):
    purpose, command, *others = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in (purpose, command, *others))
    assert f"--config configs/finetune/{path.name}" in command
    read(path)

"""A model that sees four images often enough knows them by heart."""

from pathlib import Path

import torch
from corpora import put
from drawn_labels import panoptic_shards, scenes
from tiny_training import tiny_config

from maskformer import MaskFormerForInstanceSegmentation, MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.training.loading import load_batches
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.targets import Task
from pipeline.training.validation import ValidationSettings, validation_of

NUM_STEPS = 120


def score(model: MaskFormerForInstanceSegmentation, data: TrainingData, *, task: Task) -> float:
    dataset = data.dataset
    validation = validation_of(
        ValidationSettings(validation="the same"),
        dataset=dataset,
        labels=dataset.labels.names,
        task=task,
        resize_rule="transformers",
    )
    in_training = torch.backends.cudnn.allow_tf32
    score = validation.evaluate(model, processor=data.processor, rank=0, world_size=1).score
    assert torch.backends.cudnn.allow_tf32 == in_training  # validation computes as labelling does
    return score


def test_four_images_are_learnt_by_heart(tmp_path: Path):
    put(tmp_path, panoptic_shards(scenes(4)))
    dataset = open_labelled(DatasetSettings(dataset=str(tmp_path)))
    settings = OptimisationSettings(
        num_steps=NUM_STEPS,
        batch_size=4,
        learning_rate=2e-3,
        backbone_rate=1.0,
        warmup_steps=20,
        clip_norm=1.0,
    )
    data = TrainingData(
        dataset=dataset,
        augmentation=Augmentation(flip=False),
        processor=MaskFormerImageProcessor(size={"shortest_edge": 96}),
        seed=0,
    )
    torch.manual_seed(0)
    config = tiny_config(id2label=dict(enumerate(dataset.labels.names)), num_labels=None)
    trainer = Trainer(MaskFormerForInstanceSegmentation(config), settings=settings, seed=0)
    batches = load_batches(
        data,
        steps=range(NUM_STEPS),
        global_batch=4,
        rank=0,
        world_size=1,
        micro_batches=1,
        num_processes=0,
        device="cpu",
    )
    for step, micro_batches in enumerate(batches):
        trainer.step(micro_batches, step=step)
    assert score(trainer.delivered, data, task="panoptic") > 0.9
    assert score(trainer.delivered, data, task="semantic") > 0.95

"""Validation beside training: the model in memory, its precision, and bounded memory."""

import copy
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from corpora import put
from drawn_labels import panoptic_shards, scenes
from tiny_training import tiny_config

from maskformer import MaskFormerForInstanceSegmentation, MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.labelling.segmenting.model_loading import ModelInMemory, float32_precision_kept
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.training import validation_blocks
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.validation import (
    Validation,
    ValidationSettings,
    free_share,
    validation_of,
    validation_precision,
)

PROCESSOR = MaskFormerImageProcessor(size={"shortest_edge": 48})
ALONE = {"processor": PROCESSOR, "rank": 0, "world_size": 1}


@pytest.fixture
def validation(tmp_path: Path) -> Validation:
    dataset = open_labelled(DatasetSettings(dataset=put(tmp_path, panoptic_shards(scenes(6)))))
    return validation_of(
        ValidationSettings(validation="drawn"),
        dataset=dataset,
        labels=dataset.labels.names,
        task="panoptic",
        resize_rule="transformers",
    )


def model_for(validation: Validation) -> MaskFormerForInstanceSegmentation:
    torch.manual_seed(1)
    labels = dict(enumerate(validation.judge.labels.names))
    return MaskFormerForInstanceSegmentation(tiny_config(id2label=labels, num_labels=None))


def test_the_model_is_validated_as_it_is_and_stays_as_it_was(
    validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the model was read anew")

    monkeypatch.setattr(MaskFormerForInstanceSegmentation, "from_pretrained", read)
    model = model_for(validation).train()
    before = copy.deepcopy(model.state_dict())
    validation.evaluate(model, **ALONE, precision="bf16")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter.is_leaf)
    assert model.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_in_memory_has_the_rows_of_its_files(
    validation: Validation, tmp_path: Path, precision: str
) -> None:
    model, folder = model_for(validation).train(), tmp_path / "model"
    model.save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = replace(validation.segmenting, precision=precision, threshold=0.0)
    sources = (files, ModelInMemory(model=model, processor=PROCESSOR))
    [block] = list(validation.blocks(**ALONE))
    with float32_precision_kept():
        from_files, in_memory = (
            Segmenter(source, settings=settings, num_threads=1)(block) for source in sources
        )
    assert from_files.equals(in_memory)
    assert any(from_files["segments"].to_pylist())


def positions(blocks: validation_blocks.ValidationBlocks) -> list[int]:
    return [index for block in blocks for index in pa.table(block)["position"].to_pylist()]


def test_processes_load_what_the_worker_loads_itself_each_time(
    validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_blocks, "_LEAST_IMAGES", 1)
    monkeypatch.setattr(validation_blocks, "_CHUNK", 2)
    share = {"processor": PROCESSOR, "rank": 1, "world_size": 2}
    here, there = (validation.blocks(**share, num_processes=number) for number in (0, 1))
    assert positions(here) == [1, 3, 5]
    assert positions(there) == positions(there) == [1, 3, 5]
    one, other = (pa.concat_tables(blocks) for blocks in (here, there))
    assert one.equals(other)


def test_few_images_start_no_process(validation: Validation) -> None:
    blocks = validation.blocks(**ALONE, num_processes=8)
    assert blocks._processes is None


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        ({"precision": "bf16"}, "cuda", "bf16"),
        ({"precision": "bf16"}, "cpu", "fp32"),
        ({"precision": "fp16"}, "cuda", "fp32"),
        ({"precision": "fp16", "tf32": True}, "cuda", "tf32"),
        ({}, "cuda", "fp32"),
    ],
)
def test_the_precision_is_that_of_the_training_beside_a_gpu(
    settings: dict, device: str, expected: str
) -> None:
    found = validation_precision(OptimisationSettings(**settings), device=torch.device(device))
    assert found == expected


def test_batches_take_what_the_training_leaves_of_a_gpus_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert free_share(torch.device("cpu")) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 60)
    assert free_share(torch.device("cuda")) == pytest.approx(0.3)

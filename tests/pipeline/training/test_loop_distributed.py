"""One process equals many: the same global batches leave the same weights.

Four gloo processes are started once; all four train, then the first two as a world of their own.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import run_processes
from tiny_training import drawn_batch, tiny_model

import pipeline.training.loop as loop
from maskformer import Normalisers
from pipeline.training.batches import Batch
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings

NUM_STEPS = 5
# By image of the global batch: the last quarter, which is the last process's share, has none.
NUM_MASKS = [5, 1, 2, 7, 0, 3, 0, 0]

SETTINGS = OptimisationSettings(num_steps=20, batch_size=8, learning_rate=1e-3, warmup_steps=2)


def share(step: int, *, rank: int, world_size: int) -> list[Batch]:
    """A worker's images of a step, in two micro-batches."""
    images = range(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    halves = images[: len(images) // 2], images[len(images) // 2 :]
    return [
        drawn_batch(list(half), num_masks=[NUM_MASKS[image] for image in half], seed=step)
        for half in halves
    ]


def train_worker(*, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    trainer = Trainer(tiny_model(), settings=SETTINGS, seed=0)
    for step in range(NUM_STEPS):
        trainer.step(share(step, rank=rank, world_size=world_size), step=step)
    # As batch norm's statistics would, a buffer comes to differ.
    trainer.delivered.criterion.empty_weight.add_(rank)
    trainer.share_buffers()
    return trainer.delivered.state_dict()


def local_normalisers(micro_batches, *, num_queries, eos_coef, device) -> Normalisers:
    """The mistake: each process divides by what it holds itself."""
    counts = [len(labels) for batch in micro_batches for labels in batch]
    matched = sum(min(count, num_queries) for count in counts)
    others = num_queries * len(counts) - matched
    return Normalisers(
        num_masks=torch.tensor(float(max(1, sum(counts)))),
        class_weight=torch.tensor(matched + eos_coef * others),
    )


def run_training_process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    for world_size, name in ((4, "four"), (2, "two"), (4, "local")):
        if rank >= world_size:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=world_size
        )
        if name == "local":
            loop.step_normalisers = local_normalisers
        weights = train_worker(rank=rank, world_size=world_size)
        torch.save(weights, f"{folder}/{name}-{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    run_processes(run_training_process, folder=folder, count=4)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return train_worker(rank=0, world_size=1)


def difference(folder: Path, name: str, alone: dict[str, torch.Tensor]) -> float:
    """The largest of any weight tensor, relative to the tensor's length.

    Or to 0.01: a bias of attention's keys changes nothing, so that its gradient is rounding alone.
    """
    many = torch.load(folder / f"{name}-0.pt")
    return max(float((many[k] - alone[k]).norm() / alone[k].norm().clamp(min=1e-2)) for k in alone)


@pytest.mark.parametrize("name", ["two", "four"])
def test_many_processes_leave_the_weights_of_one(folder: Path, alone: dict, name: str):
    assert difference(folder, name, alone) < 1e-4


def test_weights_have_moved_by_far_more(alone: dict):
    start = tiny_model().state_dict()
    moved = (alone["class_predictor.weight"] - start["class_predictor.weight"]).norm()
    assert float(moved / start["class_predictor.weight"].norm()) > 1e-2


def test_all_processes_hold_the_same_weights_and_buffers(folder: Path):
    first, *others = (torch.load(folder / f"four-{rank}.pt") for rank in range(4))
    assert all(torch.equal(first[k], other[k]) for other in others for k in first)


def test_normalisers_of_each_process_alone_break_it(folder: Path, alone: dict):
    assert difference(folder, "local", alone) > 1e-2

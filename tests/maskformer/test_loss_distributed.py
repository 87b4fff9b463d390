"""Many processes against one: averaged gradients are those of one process that sees all images.

Four gloo processes are started once, for all tests. The first two of them are also a group of their
own, so that two processes and the `process_group` argument are tested by the same start.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from gloo import run_processes
from torch import Tensor, nn

from maskformer.criterion.loss import MaskFormerLoss, step_normalisers
from maskformer.criterion.matcher import MaskFormerHungarianMatcher

NUM_LABELS, QUERIES, EOS, FULL_SIZE = 4, 6, 0.1, (16, 24)

# By process, then micro-batch, then image: the number of targets. One process has none at all, and
# one image has more than there are queries.
NUM_TARGETS = [
    [[3, 1], [2, 0]],
    [[0, 0], [0, 0]],
    [[9, 2], [1, 4]],
    [[1, 0], [0, 5]],
]

COLLECTIVES = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "reduce", "barrier")


class TwoLayerModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pixels = nn.Conv2d(3, 8, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(3, QUERIES, 8))
        self.classes = nn.Linear(8, NUM_LABELS + 1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        features = self.pixels(images)
        hidden = self.queries[:, None] + features.mean((2, 3))[None, :, None]
        masks = torch.einsum("lbqc,bchw->lbqhw", hidden, features)
        return [
            {"masks_queries_logits": mask, "class_queries_logits": classes}
            for mask, classes in zip(masks, self.classes(hidden), strict=True)
        ]


def draw_batch(process: int, micro_batch: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(10 * process + micro_batch)
    counts = NUM_TARGETS[process][micro_batch]
    return (
        torch.randn(len(counts), 3, *FULL_SIZE, generator=generator),
        [torch.rand(count, *FULL_SIZE, generator=generator) > 0.6 for count in counts],
        [torch.randint(NUM_LABELS, (count,), generator=generator) for count in counts],
    )


def step_gradient(
    batches: list[tuple[Tensor, list[Tensor], list[Tensor]]], **normalisers: Tensor
) -> Tensor:
    """The gradient of one process's step, added over its micro-batches."""
    matcher = MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    model, criterion = TwoLayerModel(), MaskFormerLoss(NUM_LABELS, matcher, {}, EOS)
    for images, mask_labels, class_labels in batches:
        last, *auxiliary = model(images)
        losses = criterion(*last.values(), mask_labels, class_labels, auxiliary, **normalisers)
        weighted = [20 * loss if "mask" in name else loss for name, loss in losses.items()]
        torch.stack(weighted).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def joined_gradient(num_processes: int, num_micro_batches: int) -> Tensor:
    parts = [draw_batch(p, m) for p in range(num_processes) for m in range(num_micro_batches)]
    images, mask_labels, class_labels = zip(*parts, strict=True)
    return step_gradient([(torch.cat(images), [*chain(*mask_labels)], [*chain(*class_labels)])])


@contextmanager
def counted_collectives() -> Iterator[list[str]]:
    """The names of the collectives called inside, which run as ever."""
    called: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(dist, name)
        return lambda *args, **kwargs: called.append(name) or real(*args, **kwargs)

    with mock.patch.multiple(dist, **{name: counting(name) for name in COLLECTIVES}):
        yield called


def average(gradient: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    dist.all_reduce(gradient, group=group)
    return gradient / dist.get_world_size(group)


def count_locally(class_labels: list[Tensor]) -> dict[str, Tensor]:
    """The mistake: each process divides by its own number of masks."""
    matched = sum(min(QUERIES, len(labels)) for labels in class_labels)
    others = QUERIES * len(class_labels) - matched
    return {
        "num_masks": torch.tensor(sum(map(len, class_labels))).clamp(min=1.0),
        "class_weight": torch.tensor(matched + EOS * others),
    }


def run_loss_process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(NUM_TARGETS)
    )
    first_two = dist.new_group([0, 1])
    results: dict[str, tuple[Tensor, list[str]]] = {}
    for num_processes, group in ((4, None), (2, first_two)):
        if rank >= num_processes:
            continue
        for num_micro_batches in (1, 2):
            batches = [draw_batch(rank, micro_batch) for micro_batch in range(num_micro_batches)]
            with counted_collectives() as called:
                normalisers = step_normalisers(
                    [class_labels for *_, class_labels in batches],
                    num_queries=QUERIES,
                    eos_coef=EOS,
                    device="cpu",
                    process_group=group,
                )
                gradient = step_gradient(batches, **vars(normalisers))
            results[f"{num_processes}, {num_micro_batches}"] = (average(gradient, group), called)
    with counted_collectives() as called:
        gradient = step_gradient([draw_batch(rank, 0)])
    results["by itself"] = (average(gradient, None), called)
    with counted_collectives() as called:
        gradient = step_gradient([draw_batch(rank, 0)], **count_locally(draw_batch(rank, 0)[2]))
    results["local"] = (average(gradient, None), called)
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, list[str]]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    run_processes(run_loss_process, folder=folder, count=len(NUM_TARGETS))
    return torch.load(folder / "results.pt")


def relative_error(gradient: Tensor, expected: Tensor) -> float:
    return float((gradient - expected).norm() / expected.norm())


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_have_the_gradient_of_one_on_the_joined_batch(
    results: dict, num_processes: int, num_micro_batches: int
) -> None:
    gradient, called = results[f"{num_processes}, {num_micro_batches}"]
    expected = joined_gradient(num_processes, num_micro_batches)
    assert relative_error(gradient, expected) < 1e-5
    assert called == ["all_reduce"]


def test_a_loss_without_normalisers_counts_over_all_processes_by_itself(results: dict) -> None:
    gradient, called = results["by itself"]
    assert relative_error(gradient, joined_gradient(4, 1)) < 1e-5
    assert called == ["all_reduce"]


def test_counting_masks_locally_gives_another_gradient(results: dict) -> None:
    gradient, _ = results["local"]
    assert relative_error(gradient, joined_gradient(4, 1)) > 1e-2

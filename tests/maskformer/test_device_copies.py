"""What is made for sizes not seen before travels to a GPU while that computes something else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maskformer.bilinear import interpolation_grid
from maskformer.network.window_plans import _gather_plan
from maskformer.postprocessing.batch_geometry import BatchGeometry
from maskformer.preprocessing.device_resize import _taps

GPU = torch.device("cuda")


def sizes_of_a_batch() -> Any:
    geometry = BatchGeometry.of(
        torch.zeros(2, 1, 8, 8),
        target_sizes=[(31, 43), (1, 1)],
        image_sizes=None,
        padded_size=None,
    )
    return geometry.on(GPU)


@pytest.mark.parametrize(
    "make",
    [
        lambda: interpolation_grid.__wrapped__(16, 61, GPU),
        lambda: _taps.__wrapped__(427, 512, 2, GPU),
        lambda: _gather_plan(10, 13, 7, 3, GPU, torch.bfloat16),
        sizes_of_a_batch,
    ],
    ids=["interpolation", "resizing", "windows", "sizes"],
)
def test_copies_to_a_gpu_come_from_pinned_memory_without_a_wait(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is pretended: a copy that is pinned or moved stays where it is."""
    move, pinned, copies = torch.Tensor.to, set(), []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    def to(tensor: torch.Tensor, *args: Any, non_blocking: bool = False, **others: Any) -> Any:
        if args != (GPU,):
            return move(tensor, *args, **others)
        copies.append((tensor.data_ptr() in pinned, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    make()
    assert copies
    assert set(copies) == {(True, True)}

"""Tests of what runs on a GPU: each needs one, and they compare it with the CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
# The tiny models of the parts' own tests.
sys.path[:0] = [str(TESTS / folder) for folder in ("maskformer", "pipeline", "pipeline/training")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Here alone, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """float32 with all its digits: torch's own default has convolutions drop some on a GPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before

"""Tests of what runs on a GPU: each needs one, and they compare it with the CPU."""

import sys
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

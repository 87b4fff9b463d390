"""A training worker that is alone and in this process, without Ray."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch
import torch


def be_the_only_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives `pipeline.training.worker.train` plain values for what Ray Train gives a worker."""
    context = SimpleNamespace(
        get_world_rank=lambda: 0,
        get_world_size=lambda: 1,
        get_experiment_name=lambda: "run",
    )

    def report(
        metrics: Any, *, checkpoint: Any, checkpoint_dir_name: str, checkpoint_upload_fn: Any
    ) -> None:
        checkpoint_upload_fn(checkpoint, checkpoint_dir_name)

    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))

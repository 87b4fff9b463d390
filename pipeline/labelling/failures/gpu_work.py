"""Ends processes over errors of their GPUs, and tells which GPUs do no more work.

A process whose GPU fails reports it to the run's `AttemptTracker` (`poison.py`) and ends. Ray
starts it again, mostly on the same card. On one that is left alone it loads no model: it answers
each block with a row of the kind `LEFT_ALONE`, so that the driver ends the pass. Starts without
Ray.
"""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from pipeline.labelling.failures.gpu_errors import is_gpu_error
from pipeline.labelling.failures.gpu_failures import FailedGpu, Gpu
from pipeline.runtime.node_groups import NodeGroup, living_nodes
from pipeline.runtime.remote_objects import RemoteObject, loaded_ray

LEFT_ALONE = "left alone"
"""The kind of a row in place of images, from an actor on a GPU that is left alone."""


def assigned_gpu() -> Gpu | None:
    """Returns the GPU that Ray gave to this process, the first where there are several."""
    ray = loaded_ray()
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    indices = context.get_accelerator_ids().get("GPU", [])
    if not indices:
        return None
    return Gpu(node_id=context.get_node_id(), index=indices[0], node=ray.util.get_node_ip_address())


def assigned_gpu_share() -> float:
    """Returns the share of a GPU that Ray gave to this process, at most 1; 1 without Ray."""
    ray = loaded_ray()
    if ray is None or not ray.is_initialized():
        return 1.0
    resources = ray.get_runtime_context().get_assigned_resources()
    return min(float(resources.get("GPU", 1.0)), 1.0)


class WorkUnderWay:
    """The keys that the threads of an actor's process work on; an error of its GPU ends it."""

    def __init__(self, *, attempts: RemoteObject | None, gpu: Gpu | None) -> None:
        """Takes the `AttemptTracker`, or None, and the GPU, or None for a CPU."""
        self._attempts, self._gpu = attempts, gpu
        self._keys: list[Hashable] = []
        self._is_ending = threading.Lock()

    @contextlib.contextmanager
    def on(self, keys: Sequence[Hashable]) -> Iterator[None]:
        """Notes work on the keys; an error of the GPU that it raises ends the process."""
        self._keys += keys
        try:
            yield
        except Exception as error:
            if is_gpu_error(error):
                self.end_process(error)
            raise
        finally:
            for key in keys:
                self._keys.remove(key)

    def end_process(self, error: BaseException) -> None:
        """Reports the error on stderr and to the tracker, and ends the process.

        Any work that is under way may have caused it: kernels report errors of kernels before them.
        """
        self._is_ending.acquire()  # for good: other threads wait here for the end
        gpu = self._gpu and _with_uuid(self._gpu)
        [message, *_] = str(error).splitlines() or [""]
        described = f"{type(error).__name__}: {message[:300]}"
        stderr = sys.__stderr__ or sys.stderr
        print(f"{gpu or 'a GPU'}: {described}; this process ends", file=stderr, flush=True)
        if gpu is not None and self._attempts is not None:
            self._attempts.ask("gpu_failed", gpu, keys=[*self._keys], error=described)
        os._exit(1)


def _with_uuid(gpu: Gpu) -> Gpu:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return gpu
    with contextlib.suppress(RuntimeError, AssertionError):  # a lost card does not answer
        if torch.cuda.is_available():
            uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
            return dataclasses.replace(gpu, uuid=f"GPU-{uuid}")
    return gpu


def gpus_left_alone(attempts: RemoteObject, *, group: NodeGroup | None = None) -> list[FailedGpu]:
    """Returns the GPUs of a group of nodes, or of all, that are to do no more work.

    Args:
        attempts: the run's `AttemptTracker`.
    """
    failed: list[FailedGpu] = attempts.ask("gpus_left_alone")
    return [
        each
        for each in failed
        if group is None or group.counts_gpu(node_id=each.gpu.node_id, index=each.gpu.index)
    ]


def is_gpu_left(attempts: RemoteObject, *, is_last_chance: bool = False) -> bool:
    """Returns whether a GPU may do work, or none is needed.

    Args:
        attempts: the run's `AttemptTracker`.
        is_last_chance: takes cards back of which it is not proven that they are at fault.
    """
    failed = attempts.ask("gpus_left_alone", is_last_chance=is_last_chance)
    return not failed or len(failed) < sum(
        node["Resources"].get("GPU", 0) for node in living_nodes()
    )

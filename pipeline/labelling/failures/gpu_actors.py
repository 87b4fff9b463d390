"""Ends actors over errors of their GPUs, and keeps actors from GPUs that are left alone.

An actor whose GPU fails reports it to the run's `AttemptTracker` (`poison.py`) and ends its
process. Ray starts the process again, mostly on the same card. On one that is left alone the actor
loads no model: it answers each block with a row of the kind `LEFT_ALONE`, so that the driver ends
the pass. Actors of `held` take the card before the next pass.
"""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.labelling.failures.gpu_errors import is_gpu_error
from pipeline.labelling.failures.gpu_failures import FailedGpu, Gpu
from pipeline.runtime.node_groups import NodeGroup, living_nodes

LEFT_ALONE = "left alone"
"""The kind of a row in place of images, from an actor on a GPU that is left alone."""

_HOLD_SECONDS = 60


def assigned_gpu() -> Gpu | None:
    """Returns the GPU that Ray gave to this process, the first where there are several."""
    context = ray.get_runtime_context()
    indices = context.get_accelerator_ids().get("GPU", [])
    if not indices:
        return None
    return Gpu(node_id=context.get_node_id(), index=indices[0], node=ray.util.get_node_ip_address())


class WorkUnderWay:
    """The keys that the threads of an actor's process work on; an error of its GPU ends it."""

    def __init__(self, *, attempts: Any, gpu: Gpu | None) -> None:
        """Takes the actor of an `AttemptTracker`, or None, and the GPU, or None for a CPU."""
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
            ray.get(self._attempts.gpu_failed.remote(gpu, keys=[*self._keys], error=described))
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


class _Holder:
    """An actor that takes a GPU and does nothing with it."""

    def gpu(self) -> Gpu | None:
        return assigned_gpu()


_HOLDER: Any = ray.remote(num_cpus=0, num_gpus=1)(_Holder)


def gpus_left_alone(attempts: Any, *, group: NodeGroup | None = None) -> list[FailedGpu]:
    """Returns the GPUs of a group of nodes, or of all, that are to do no more work.

    Args:
        attempts: the actor of an `AttemptTracker`.
    """
    failed: list[FailedGpu] = ray.get(attempts.gpus_left_alone.remote())
    return [each for each in failed if group is None or each.gpu.node_id in group.node_ids]


def is_gpu_left(attempts: Any, *, is_last_chance: bool = False) -> bool:
    """Returns whether a GPU may do work, or none is needed.

    Args:
        attempts: the actor of an `AttemptTracker`.
        is_last_chance: takes cards back of which it is not proven that they are at fault.
    """
    failed = ray.get(attempts.gpus_left_alone.remote(is_last_chance=is_last_chance))
    return not failed or len(failed) < sum(
        node["Resources"].get("GPU", 0) for node in living_nodes()
    )


@contextlib.contextmanager
def held(failed: Iterable[FailedGpu], *, seconds: float = _HOLD_SECONDS) -> Iterator[None]:
    """Keeps actors from cards that are left alone: an actor of its own holds each.

    Ray starts actors wherever a GPU is free, which is on the failed one first.

    Args:
        seconds: how long to wait for a card that other runs may use.
    """
    holders: dict[Gpu, Any] = {}
    wanted = {each.gpu for each in failed}
    try:
        for node_id in {gpu.node_id for gpu in wanted}:
            on_node = {gpu for gpu in wanted if gpu.node_id == node_id}
            _hold(on_node, node_id=node_id, holders=holders, seconds=seconds)
        yield
    finally:
        for holder in holders.values():
            ray.kill(holder)


def _hold(wanted: set[Gpu], *, node_id: str, holders: dict[Gpu, Any], seconds: float) -> None:
    """Takes the node's cards one by one, as Ray gives them, until it has those wanted."""
    others = []
    placement = NodeAffinitySchedulingStrategy(node_id, soft=False)
    while not wanted <= holders.keys():
        holder = _HOLDER.options(scheduling_strategy=placement).remote()
        try:
            gpu = ray.get(holder.gpu.remote(), timeout=seconds)
        except ray.exceptions.RayError:  # the node is gone, or another run uses the card
            others.append(holder)
            break
        if gpu in wanted:
            holders[gpu] = holder
        else:
            others.append(holder)
    for holder in others:
        ray.kill(holder)

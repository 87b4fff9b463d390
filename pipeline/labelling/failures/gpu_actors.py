"""Keeps actors from GPUs that are left alone (`gpu_work.py`).

Ray starts actors wherever a GPU is free, which is on the failed one first: actors of `held` take
such a card before a pass.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.labelling.failures.gpu_failures import FailedGpu, Gpu
from pipeline.labelling.failures.gpu_work import assigned_gpu

_HOLD_SECONDS = 60


class _Holder:
    """An actor that takes a GPU and does nothing with it."""

    def gpu(self) -> Gpu | None:
        return assigned_gpu()


_HOLDER: Any = ray.remote(num_cpus=0, num_gpus=1)(_Holder)


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

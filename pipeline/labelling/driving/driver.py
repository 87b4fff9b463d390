"""Drives a labelling run: passes over the units until all are committed.

A pass (`unit_pass.py`) reads units, labels them and commits each as soon as it is complete, on a
Ray cluster (`ray_executor.py`) or in children of this process (`local_executor.py`). Units that
fail are tried again in another pass, a bounded number of times, the later ones in isolation
(`poison.py`); those that stay undone are named in the run's stats.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.unit_pass import PassResult, RunLink
from pipeline.labelling.failures.gpu_failures import Gpu
from pipeline.labelling.failures.gpu_work import gpus_left_alone, is_gpu_left
from pipeline.labelling.failures.poison import IsolationContext, quarantine
from pipeline.runtime.machines import Machines
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.runtime.run_stats import RunStats
from pipeline.table.units import Unit

_PASSES = 4


class Executor(Protocol):
    """The cluster or the processes that execute the passes of a run."""

    machines: Machines
    attempts: RemoteObject
    """The run's `AttemptTracker`."""

    def run_pass(
        self, units: Mapping[str, Unit], *, link: RunLink, isolation: IsolationContext | None
    ) -> PassResult:
        """Labels and commits the units, as far as nothing fails; see `UnitPass`."""
        ...


def run_units(
    units: Iterable[Unit],
    *,
    job: LabellingJob,
    stats: RunStats,
    on_progress: Callable[[], bool],
    executor: Executor | None = None,
) -> bool:
    """Labels and commits the units, in as many passes as it takes, up to `_PASSES`.

    Args:
        stats: is kept up to date.
        on_progress: is called after each receipt, or each second where groups of nodes have
            drivers of their own; False ends the run after the commits that are under way.
        executor: by default the Ray cluster that this process is connected to.

    Returns:
        Whether `on_progress` ended the run.
    """
    left = {unit.unit_id: unit for unit in units}
    if executor is None:
        executor = _of_the_cluster(job)
    machines, attempts = executor.machines, executor.attempts
    gpus = machines.most_actors * machines.actor_gpus
    stats.take_machines(actors=machines.most_actors, gpus=gpus, nodes=machines.num_nodes)
    link = RunLink(stats=stats, is_to_go_on=on_progress)
    isolation = None
    num_passes, failed_gpus = 0, set[Gpu]()
    while num_passes < _PASSES + len(failed_gpus):  # a GPU that is left alone ends a pass
        num_passes += 1
        failed_gpus |= {each.gpu for each in gpus_left_alone(attempts)}
        if not is_gpu_left(attempts):
            if isolation is not None or not is_gpu_left(attempts, is_last_chance=True):
                break
            isolation = IsolationContext()  # images may be at fault
        attempts.ask("start_pass", is_isolated=isolation is not None)
        for unit_id in left:
            stats.faults.pop(unit_id, None)  # of the pass before
        result = executor.run_pass(left, link=link, isolation=isolation)
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in result.done}
        if not left or result.was_stopped or result.is_shut:
            break
        if isolation is not None:
            suspects = attempts.ask("suspects")
            seconds = job.segmenting.segment_seconds
            quarantined = quarantine(
                suspects, segment_seconds=seconds, earlier=isolation.quarantined
            )
            isolation = IsolationContext(quarantined=quarantined)
        elif result.lost_workers:
            isolation = IsolationContext()
    stats.gpus_left_alone = [each.to_dict() for each in gpus_left_alone(attempts)]
    if result.is_shut:
        stats.units_left = len(left.keys() - result.begun)
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id in result.begun}
    for unit_id in left:
        stats.faults.setdefault(unit_id, "was not reached")
    return result.was_stopped


def _of_the_cluster(job: LabellingJob) -> Executor:
    # Loaded here: Ray takes a second, which a run without a cluster does without.
    from pipeline.labelling.driving.ray_executor import RayExecutor

    return RayExecutor(job)

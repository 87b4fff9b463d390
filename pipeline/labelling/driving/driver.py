"""Drives a labelling run: passes over the units until all are committed.

A pass (`unit_pass.py`) reads units, labels them and commits each as soon as it is complete; on a
cluster with many GPUs it is shared among groups of nodes (`sub_drivers.py`). Units that fail are
tried again in another pass, a bounded number of times, the later ones in isolation (`poison.py`);
those that stay undone are named in the run's stats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import ray

from pipeline.labelling.driving.deadline import DeadlineAdmission
from pipeline.labelling.driving.operators import ATTEMPT_TRACKER
from pipeline.labelling.driving.ray_dataset import LabellingJob, TaskSource
from pipeline.labelling.driving.sub_drivers import SharedPass
from pipeline.labelling.driving.unit_pass import PassResult, SharedActors, UnitPass, UnitWork
from pipeline.labelling.driving.unit_queue import StoredUnits
from pipeline.labelling.failures.gpu_actors import gpus_left_alone, is_gpu_left
from pipeline.labelling.failures.gpu_failures import Gpu
from pipeline.labelling.failures.poison import IsolationContext, quarantine
from pipeline.runtime.cluster import Machines
from pipeline.runtime.node_groups import NodeGroup, node_groups
from pipeline.runtime.run_stats import RunStats
from pipeline.table.units import Unit

_PASSES = 4
# Fewer units than this for each group of nodes are not worth a driver of its own.
_UNITS_PER_GROUP = 2


def run_units(
    units: Iterable[Unit], *, job: LabellingJob, stats: RunStats, on_progress: Callable[[], bool]
) -> bool:
    """Labels and commits the units, in as many passes as it takes, up to `_PASSES`.

    Args:
        stats: is kept up to date.
        on_progress: is called after each receipt, or each second where groups of nodes have
            drivers of their own; False ends the run after the commits that are under way.

    Returns:
        Whether `on_progress` ended the run.
    """
    left = {unit.unit_id: unit for unit in units}
    machines = Machines.of_cluster(job.actors)
    gpus = machines.most_actors * machines.actor_gpus
    stats.take_machines(actors=machines.most_actors, gpus=gpus, nodes=machines.num_nodes)
    attempts = ATTEMPT_TRACKER.remote()
    actors = SharedActors(
        model=ray.put(dict(job.model_files)),
        attempts=attempts,
        admission=None if job.deadline is None else _ADMISSION.remote(job.deadline),
    )
    isolation = None
    num_passes, failed_gpus = 0, set[Gpu]()
    while num_passes < _PASSES + len(failed_gpus):  # a GPU that is left alone ends a pass
        num_passes += 1
        failed_gpus |= {each.gpu for each in gpus_left_alone(attempts)}
        if not is_gpu_left(attempts):
            if isolation is not None or not is_gpu_left(attempts, is_last_chance=True):
                break
            isolation = IsolationContext()  # images may be at fault
        ray.get(attempts.start_pass.remote(is_isolated=isolation is not None))
        for unit_id in left:
            stats.faults.pop(unit_id, None)  # of the pass before
        result = _run_pass(
            left,
            groups=() if isolation is not None else node_groups(most_gpus=gpus),
            job=job,
            actors=actors,
            stats=stats,
            on_progress=on_progress,
            isolation=isolation,
        )
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in result.done}
        if not left or result.was_stopped or result.is_shut:
            break
        if isolation is not None:
            suspects = ray.get(attempts.suspects.remote())
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


def _run_pass(
    units: Mapping[str, Unit],
    *,
    groups: Sequence[NodeGroup],
    job: LabellingJob,
    actors: SharedActors,
    stats: RunStats,
    on_progress: Callable[[], bool],
    isolation: IsolationContext | None,
) -> PassResult:
    stored = StoredUnits.of(units.values())
    num_images = sum(unit.about_images for unit in units.values())
    if groups and len(units) >= _UNITS_PER_GROUP * len(groups):
        return SharedPass(
            stored,
            groups=groups,
            num_images=num_images,
            job=job,
            actors=actors,
            stats=stats,
            on_progress=on_progress,
        ).run()
    return UnitPass(
        UnitWork(
            source=TaskSource.of(stored), unit_ids=lambda: units.keys(), num_images=num_images
        ),
        job=job,
        actors=actors,
        stats=stats,
        on_progress=on_progress,
        isolation=isolation,
    ).run()


_ADMISSION = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeadlineAdmission)

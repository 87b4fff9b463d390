"""Executes the passes of a run on a Ray cluster, in one process or one for each group of nodes."""

from collections.abc import Mapping

import ray

from pipeline.labelling.driving.deadline import DeadlineAdmission
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.operators import start_attempt_tracker
from pipeline.labelling.driving.ray_dataset import TaskSource
from pipeline.labelling.driving.ray_workers import RayWorkers, SharedActors, UnitWork
from pipeline.labelling.driving.sub_drivers import SharedPass
from pipeline.labelling.driving.unit_pass import PassResult, RunLink, UnitPass
from pipeline.labelling.driving.unit_queue import StoredUnits
from pipeline.labelling.failures.poison import IsolationContext
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import node_groups
from pipeline.runtime.remote_objects import RayObject, RemoteObject
from pipeline.table.units import Unit

# Fewer units than this for each group of nodes are not worth a driver of its own.
_UNITS_PER_GROUP = 2


class RayExecutor:
    """The cluster that this process is connected to."""

    def __init__(self, job: LabellingJob) -> None:
        """Puts the model into the object store and starts the actors of the run."""
        self._job = job
        self.machines = Machines.of_cluster(job.actors)
        self.attempts: RemoteObject = start_attempt_tracker()
        is_limited = job.deadline is not None
        self._actors = SharedActors(
            model=ray.put(dict(job.model_files)),
            attempts=self.attempts,
            admission=RayObject(_ADMISSION.remote(job.deadline)) if is_limited else None,
        )

    def run_pass(
        self, units: Mapping[str, Unit], *, link: RunLink, isolation: IsolationContext | None
    ) -> PassResult:
        gpus = self.machines.most_actors * self.machines.actor_gpus
        groups = () if isolation is not None else node_groups(most_gpus=gpus)
        stored = StoredUnits.of(units.values())
        num_images = sum(unit.about_images for unit in units.values())
        if groups and len(units) >= _UNITS_PER_GROUP * len(groups):
            return SharedPass(
                stored,
                groups=groups,
                num_images=num_images,
                job=self._job,
                actors=self._actors,
                link=link,
            ).run()
        work = UnitWork(
            source=TaskSource.of(stored), unit_ids=lambda: units.keys(), num_images=num_images
        )
        return UnitPass(
            RayWorkers(work, job=self._job, actors=self._actors),
            job=self._job,
            link=link,
            isolation=isolation,
        ).run()


_ADMISSION = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeadlineAdmission)

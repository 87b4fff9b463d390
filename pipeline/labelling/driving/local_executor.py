"""Executes the passes of a run in children of this process, without Ray.

A cluster takes ten seconds to start and a core for its services: a run of some thousand images on
CPUs is over sooner without. Workers, passes, attempts and commits are those of a cluster.
"""

from collections.abc import Mapping

from pipeline.labelling.driving.deadline import DeadlineAdmission
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.local_children import LocalChildren
from pipeline.labelling.driving.local_workers import LocalWorkers
from pipeline.labelling.driving.unit_pass import PassResult, RunLink, UnitPass
from pipeline.labelling.failures.poison import AttemptTracker, IsolationContext
from pipeline.runtime.machines import Machines, this_machine
from pipeline.runtime.remote_objects import LocalObject, RemoteObject
from pipeline.table.units import Unit


class LocalExecutor:
    """The children of this process."""

    def __init__(self, job: LabellingJob, *, children: LocalChildren, num_images: int) -> None:
        """Takes about how many images the run has in all."""
        self._job, self._children, self._num_images = job, children, num_images
        self.machines = Machines.of_nodes([this_machine()], job.actors).for_images(num_images)
        self.attempts: RemoteObject = LocalObject(AttemptTracker())
        self._admission: RemoteObject | None = None
        if job.deadline is not None:
            self._admission = LocalObject(DeadlineAdmission(job.deadline))

    def run_pass(
        self, units: Mapping[str, Unit], *, link: RunLink, isolation: IsolationContext | None
    ) -> PassResult:
        workers = LocalWorkers(
            units,
            job=self._job,
            machines=self.machines,
            num_images=self._num_images,
            children=self._children,
            attempts=self.attempts,
            admission=self._admission,
        )
        return UnitPass(workers, job=self._job, link=link, isolation=isolation).run()

"""Labels units in children of this process, without Ray.

Readers load units, segmenters turn blocks into receipts (`local_child.py`). What a child works on
when its process ends is given to another one: the `AttemptTracker` says when that is enough.
"""

import contextlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import pyarrow as pa

from pipeline.labelling.commit import clear_staging, commit_unit
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.local_child import Answer, Kind, StartWork
from pipeline.labelling.driving.local_children import LocalChildren
from pipeline.labelling.driving.unit_pass import CommitFailed
from pipeline.labelling.failures.poison import IsolationContext, reason
from pipeline.runtime.child_process import ChildProcess
from pipeline.runtime.machines import Machines
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.runtime.run_stats import Counts
from pipeline.storage.retries import Retries
from pipeline.table.units import Unit

_STARTS = 3
"""Children that end before they are ready, one after the other, until nothing is tried again."""
_COMMITS_AT_ONCE = 4


@dataclass
class _Worker:
    """A child in a pass, and what it works on."""

    kind: Kind
    child: ChildProcess
    task: Unit | pa.Table | None = None
    """A unit for a reader, a block for a segmenter."""
    is_ready: bool = False

    def begin(self, task: Unit | pa.Table) -> None:
        self.task = task
        self.send(task.table() if isinstance(task, Unit) else task)

    def send(self, content: Any) -> None:
        with contextlib.suppress(ConnectionError):  # `recv` will tell that it has ended
            self.child.connection.send(content)


class LocalWorkers:
    """The workers of one pass over units."""

    def __init__(
        self,
        units: Mapping[str, Unit],
        *,
        job: LabellingJob,
        machines: Machines,
        num_images: int,
        children: LocalChildren,
        attempts: RemoteObject,
        admission: RemoteObject | None,
    ) -> None:
        self._units, self._job, self._machines = units, job, machines
        self._num_segmenters = machines.first_actors(num_images)
        self._children, self._attempts = children, attempts
        self.admission: RemoteObject | None = admission
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._waiting: dict[Kind, deque[Unit | pa.Table]] = {
            "reader": deque(units.values()),
            "segmenter": deque(),
        }
        self._commits = ThreadPoolExecutor(_COMMITS_AT_ONCE, "commit")

    def unit_ids(self) -> Collection[str]:
        return self._units.keys()

    @contextlib.contextmanager
    def receipts(
        self, *, isolation: IsolationContext | None
    ) -> Iterator[Iterator[Mapping[str, Any]]]:
        self._start = StartWork(
            job=self._job,
            machines=self._machines,
            isolation=isolation,
            has_deadline=self.admission is not None,
        )
        try:
            self._add_workers("segmenter", self._num_segmenters)
            self._add_workers("reader", min(len(self._units), self._machines.num_readers))
            yield self._receipts()
        except KeyboardInterrupt:
            self._commits.shutdown(cancel_futures=True)  # the report counts those that are done
            raise
        finally:
            for worker in self._workers:
                worker.child.end()
            self._workers.clear()

    def _add_workers(self, kind: Kind, number: int) -> None:
        for _ in range(number):
            worker = _Worker(kind=kind, child=self._children.take(kind))
            self._workers.append(worker)
            worker.send(self._start if kind == "segmenter" else self._start.without_model())

    def _receipts(self) -> Iterator[Mapping[str, Any]]:
        while True:
            for worker in self._workers:
                if worker.is_ready and worker.task is None and self._waiting[worker.kind]:
                    worker.begin(self._waiting[worker.kind].popleft())
            under_way = [worker for worker in self._workers if worker.task is not None]
            if not under_way and not any(self._waiting.values()):
                return
            heard = wait([each.child.connection for each in self._workers if self._listens(each)])
            for worker in [each for each in self._workers if each.child.connection in heard]:
                yield from self._heard(worker)

    def _listens(self, worker: _Worker) -> bool:
        """Returns whether to take answers of a worker: blocks come no faster than they go."""
        most = self._machines.blocks_ahead * self._num_segmenters
        return worker.kind == "segmenter" or len(self._waiting["segmenter"]) < most

    def _heard(self, worker: _Worker) -> Iterator[Mapping[str, Any]]:
        """Takes one answer of a worker; yields the receipts in it."""
        try:
            answer: Answer = worker.child.connection.recv()
        except (EOFError, ConnectionError):
            self._replace(worker)
            return
        match answer.kind:
            case "result" if worker.kind == "reader":
                self._waiting["segmenter"].append(answer.content)
            case "result":
                yield from answer.content.to_pylist()
            case "end":
                worker.task, worker.is_ready, self._failed_starts = None, True, 0
            case "error":
                raise answer.content
            case "ask" | "tell":
                self._call(worker, answer)

    def _call(self, worker: _Worker, answer: Answer) -> None:
        name, method, args, kwargs = answer.content
        target = self._attempts if name == "attempts" else self.admission
        assert target is not None
        result = target.ask(method, *args, **kwargs)
        if answer.kind == "ask":
            worker.send(result)

    def _replace(self, worker: _Worker) -> None:
        """Starts another child in place of one that has ended, and gives it the same task.

        Raises:
            ChildProcessError: the last ones ended before they were ready.
        """
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise ChildProcessError(
                    f"a {worker.kind} does not start: {worker.child.last_error()}"
                )
        worker.child.end()
        self._workers.remove(worker)
        if worker.task is not None:
            self._waiting[worker.kind].appendleft(worker.task)
        self._add_workers(worker.kind, 1)

    def start_commit(self, unit_id: str, *, parts: list[str], num_images: int) -> Future[Counts]:
        return self._commits.submit(self._commit, unit_id, parts=parts, num_images=num_images)

    def _commit(self, unit_id: str, *, parts: list[str], num_images: int) -> Counts:
        table = self._job.table
        committed = commit_unit(
            unit_id, parts=parts, num_images=num_images, table=table, spec=self._job.spec
        )
        clear_staging(table, unit_id)
        return committed

    def ended_commits(self, commits: list[Any], *, at_least: int) -> list[Any]:
        ended = [commit for commit in commits if commit.done()]
        while len(ended) < at_least:
            left = [commit for commit in commits if commit not in ended]
            ended += wait_for(left, return_when=FIRST_COMPLETED).done
        return ended

    def committed(self, commit: Any) -> tuple[Counts, list[Retries]]:
        try:
            return commit.result(), []  # the retries of this process are counted at the end
        except Exception as error:
            raise CommitFailed(reason(error)) from error

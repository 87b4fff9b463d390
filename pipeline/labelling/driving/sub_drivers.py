"""Shares a pass among groups of nodes, each with a driver in a process on one of its nodes.

The sub-drivers take units from one queue, a unit at a time, so that a group that is faster takes
more. This process adds up what they count, once a second, and stops them. The units of a sub-driver
that is lost go back to the queue, and its group gets another.
"""

import copy
import dataclasses
import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.ray_dataset import TaskSource
from pipeline.labelling.driving.ray_workers import RayWorkers, SharedActors, UnitWork
from pipeline.labelling.driving.unit_pass import PassResult, RunLink, UnitPass
from pipeline.labelling.driving.unit_queue import (
    OpenTicket,
    OpenUnit,
    StoredUnits,
    UnitDispenser,
    tickets,
)
from pipeline.labelling.failures.poison import is_of_the_cluster, reason, root_cause
from pipeline.runtime.node_groups import NodeGroup, living_nodes
from pipeline.runtime.run_stats import Counts, RunStats

_MESSAGE_SECONDS = 1.0
_LOOK_AT_NODES_SECONDS = 10.0
_STARTS = 3
"""Sub-drivers of one group, each after the one before was lost."""
_LOST = "the process that drove its group of nodes was lost"


@dataclass(frozen=True, kw_only=True)
class GroupWork:
    """The parameters of one sub-driver."""

    taker: str
    group: NodeGroup
    job: LabellingJob
    actors: SharedActors
    dispenser: Any
    units: OpenUnit
    num_tickets: int
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The counts of a sub-driver at a moment."""

    stats: RunStats = field(default_factory=RunStats)
    under_way: Counts = field(default_factory=Counts)
    """The counts among those of `stats` that belong to units that are not done."""
    done: tuple[str, ...] = ()
    """Units that need no more work."""


class SubDriver:
    """Executes a pass over the units that it takes from a dispenser; an actor."""

    def __init__(self, work: GroupWork) -> None:
        self._stats, self._is_stopped = RunStats(), threading.Event()
        self._snapshot, self._taken_at = Snapshot(), 0.0
        open_ticket = OpenTicket(units=work.units, dispenser=work.dispenser, taker=work.taker)
        unit_work = UnitWork(
            source=TaskSource(
                tasks=functools.partial(tickets, work.num_tickets), open_task=open_ticket
            ),
            unit_ids=lambda: ray.get(work.dispenser.held_by.remote(work.taker)),
            num_images=work.num_images,
        )
        self._pass = UnitPass(
            RayWorkers(unit_work, job=work.job, actors=work.actors, group=work.group),
            job=work.job,
            link=RunLink(stats=self._stats, is_to_go_on=self._goes_on),
            isolation=None,
        )

    def run(self) -> tuple[PassResult, Snapshot]:
        """Labels and commits units until none is left, or `stop` is called."""
        result = self._pass.run()
        return result, self._take_snapshot()

    def snapshot(self, num_known: int) -> Snapshot:
        """Returns the latest counts, and the units done without the first `num_known`."""
        latest = self._snapshot
        return dataclasses.replace(latest, done=latest.done[num_known:])

    def stop(self) -> None:
        """Ends `run` after the commits that are under way."""
        self._is_stopped.set()

    def _goes_on(self) -> bool:
        # In the thread that counts: another would copy what changes meanwhile.
        if time.monotonic() - self._taken_at >= _MESSAGE_SECONDS / 2:
            self._take_snapshot()
        return not self._is_stopped.is_set()

    def _take_snapshot(self) -> Snapshot:
        self._taken_at = time.monotonic()
        self._snapshot = Snapshot(
            stats=copy.deepcopy(self._stats),
            under_way=self._pass.counts_under_way(),
            done=tuple(self._pass.done),
        )
        return self._snapshot


@dataclass
class _Running:
    """A sub-driver at work, and what is known of it."""

    taker: str
    group: NodeGroup
    actor: Any
    end: Any
    """The reference of what `run` returns."""
    message: Any = None
    """The reference of a snapshot that was asked for."""
    stats: RunStats = field(default_factory=RunStats)
    under_way: Counts = field(default_factory=Counts)
    done: list[str] = field(default_factory=list)

    def hear(self, snapshot: Snapshot) -> None:
        self.stats, self.under_way = snapshot.stats, snapshot.under_way
        self.done.extend(snapshot.done)


class SharedPass:
    """Executes one pass by a sub-driver for each group of nodes."""

    def __init__(
        self,
        units: StoredUnits,
        *,
        groups: Sequence[NodeGroup],
        num_images: int,
        job: LabellingJob,
        actors: SharedActors,
        link: RunLink,
    ) -> None:
        """Takes what `run` needs; see `UnitPass`."""
        self._units, self._groups, self._num_images = units, groups, num_images
        # The model's files are in the object store already.
        self._job = dataclasses.replace(job, model_files={})
        self._actors = actors
        self._stats, self._is_to_go_on = link.stats, link.is_to_go_on
        self._before = copy.deepcopy(link.stats)
        self._dispenser = _DISPENSER.options(
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        ).remote(units.rows)
        self._running: list[_Running] = []
        self._ended: list[_Running] = []
        self._results: list[PassResult] = []
        self._faults: dict[str, str] = {}
        self._was_stopped = False
        self._looked_at_nodes = time.monotonic()

    def run(self) -> PassResult:
        """Labels and commits the units, as far as nothing fails."""
        for group in self._groups:
            self._start(group)
        try:
            while self._running:
                self._hear()
                self._sum_up()
                if not self._was_stopped and not self._is_to_go_on():
                    self._stop()
        except _QueueLost as error:
            self._faults |= dict.fromkeys(self._units.rows, str(error))
            for each in list(self._running):
                self._part_with(each, is_lost=True)
        finally:
            for each in self._running:
                ray.kill(each.actor)
        self._sum_up()
        return PassResult(
            done=frozenset(unit_id for each in self._ended for unit_id in each.done),
            was_stopped=self._was_stopped,
            is_shut=any(result.is_shut for result in self._results),
            begun=frozenset(unit_id for result in self._results for unit_id in result.begun),
            lost_workers=any(result.lost_workers for result in self._results),
            met_gpu_left_alone=any(result.met_gpu_left_alone for result in self._results),
        )

    def _start(self, group: NodeGroup) -> None:
        share = group.num_gpus / sum(each.num_gpus for each in self._groups)
        taker = f"{len(self._running) + len(self._ended)}"
        num_units = len(self._units.rows)
        work = GroupWork(
            taker=taker,
            group=group,
            job=dataclasses.replace(self._job, actors=self._actor_settings(share)),
            actors=self._actors,
            dispenser=self._dispenser,
            units=OpenUnit(tables=self._units.tables),
            # Tickets cost time before the first unit is read. A group may do twice its share.
            num_tickets=min(num_units, int(2 * share * num_units) + 64),
            num_images=int(share * self._num_images),
        )
        actor = _SUB_DRIVER.options(label_selector=group.label_selector).remote(work)
        self._running.append(_Running(taker, group, actor, actor.run.remote()))

    def _actor_settings(self, share: float) -> Any:
        """Returns the settings of a group: as many actors as its GPUs are of all."""
        actors = self._job.actors
        if actors.num_actors is None:
            return actors
        return dataclasses.replace(actors, num_actors=max(1, round(share * actors.num_actors)))

    def _hear(self) -> None:
        """Takes the messages of the last second, and asks for the next."""
        for each in self._running:
            if each.message is None:
                each.message = each.actor.snapshot.remote(len(each.done))
        ended, _ = ray.wait([each.end for each in self._running], timeout=_MESSAGE_SECONDS)
        messages = [each.message for each in self._running]
        come, _ = ray.wait(messages, num_returns=len(messages), timeout=0)
        for each in list(self._running):
            try:
                if each.end in ended:
                    self._end(each)
                elif each.message in come:
                    each.hear(ray.get(each.message))
                    each.message = None
            except ray.exceptions.RayTaskError as error:
                if not is_of_the_cluster(error):
                    raise root_cause(error) from error
                self._lose(each)
            except ray.exceptions.RayError:
                self._lose(each)
        self._look_at_nodes()

    def _end(self, each: _Running) -> None:
        result, snapshot = ray.get(each.end)
        each.done.clear()
        each.hear(snapshot)
        self._results.append(result)
        self._part_with(each, is_lost=False)
        if result.met_gpu_left_alone:
            each.stats.faults.clear()
            self._give_back(each, over=set(each.done))
            self._start_again(each.group)
        else:
            self._give_back(each, over={*each.done, *each.stats.faults})

    def _lose(self, each: _Running) -> None:
        """Gives the units of a sub-driver that is lost to others, and its group another."""
        self._part_with(each, is_lost=True)
        undone = self._give_back(each, over=set(each.done))
        self._faults |= dict.fromkeys(undone, _LOST)
        self._start_again(each.group)

    def _start_again(self, old: NodeGroup) -> None:
        starts = sum(old.parts.items() <= ended.group.parts.items() for ended in self._ended)
        group = old.still_alive()
        if group is not None and starts < _STARTS and not self._was_stopped:
            self._start(group)

    def _give_back(self, each: _Running, *, over: set[str]) -> list[str]:
        """Puts the units of a sub-driver that has ended back into the queue; returns them."""
        try:
            undone: list[str] = ray.get(self._dispenser.give_back.remote(each.taker, over=over))
        except ray.exceptions.RayActorError as error:
            raise _QueueLost(reason(error)) from error
        return undone

    def _part_with(self, each: _Running, *, is_lost: bool) -> None:
        if is_lost:
            each.stats.counts.take_back(each.under_way)
            each.stats.faults.clear()
        self._running.remove(each)
        self._ended.append(each)
        ray.kill(each.actor)

    def _look_at_nodes(self) -> None:
        """Parts with sub-drivers that wait for a place on nodes that are all lost."""
        if time.monotonic() - self._looked_at_nodes < _LOOK_AT_NODES_SECONDS:
            return
        self._looked_at_nodes = time.monotonic()
        alive = {node["NodeID"] for node in living_nodes()}
        for each in list(self._running):
            if alive.isdisjoint(each.group.node_ids):
                self._lose(each)

    def _stop(self) -> None:
        self._was_stopped = True
        self._dispenser.close.remote()
        for each in self._running:
            each.actor.stop.remote()

    def _sum_up(self) -> None:
        parts = [*self._running, *self._ended]
        self._stats.set_sums([self._before, *(each.stats for each in parts)])
        done = {unit_id for each in parts for unit_id in each.done}
        faults = {**self._faults, **self._stats.faults}
        self._stats.faults = {name: why for name, why in faults.items() if name not in done}


class _QueueLost(Exception):
    """The process of the dispenser is lost, and with it which units are under way."""


_DISPENSER: Any = ray.remote(num_cpus=0)(UnitDispenser)
_SUB_DRIVER: Any = ray.remote(num_cpus=0, max_concurrency=2)(SubDriver)

"""Starts the children of a run without Ray, and decides whether a run may do without.

Imports little: children load their libraries, torch among them, while the driver loads its own.
"""

import os

from pipeline.corpora.settings import ReadSettings
from pipeline.labelling.driving.local_child import KINDS, CheckModel, Kind
from pipeline.labelling.settings import LabelSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.child_process import ChildProcess
from pipeline.runtime.gpus import has_gpu
from pipeline.runtime.settings import Settings, WrongUsage

MOST_IMAGES = 2000
"""Of a run that takes no cluster unless it is asked to."""

LIBRARIES: dict[Kind, tuple[str, ...]] = {
    "reader": ("pipeline.labelling.driving.labelling_job",),
    "segmenter": (
        "pipeline.labelling.segmenting.segmenter",
        "pipeline.labelling.driving.labelling_job",
    ),
}
"""The modules that each kind loads at once."""

_CHILD = "pipeline.labelling.driving.local_child"
# Threads that wait for others would compute else, at the cost of those that have work.
_OF_SEGMENTERS = {"OMP_WAIT_POLICY": "passive"}


def may_be_local(settings: Settings) -> bool:
    """Returns whether a run may do without a cluster.

    Raises:
        WrongUsage: it was asked to, and cannot.
    """
    label = settings.of(LabelSettings)
    decode = settings.of(ReadSettings).decode
    why_not = _why_not_local(settings.of(ActorSettings), decode=decode)
    if label.dry_run:
        why_not = why_not or "--dry_run uses it"
    if label.local and why_not:
        raise WrongUsage(f"--local works without Ray and on CPUs, and {why_not}; leave it out")
    return label.local is not False and why_not is None


def _why_not_local(actors: ActorSettings, *, decode: str) -> str | None:
    """Returns what a run without a cluster would leave out; None where it is nothing."""
    names = ("ray_address", "actor_gpus", "actor_cpus", "reader_cpus", "dashboard")
    given = [name for name in names if getattr(actors, name)]
    if given:
        return f"--{given[0]} is for a Ray cluster"
    if os.environ.get("RAY_ADDRESS"):
        return "RAY_ADDRESS names a Ray cluster"
    if decode == "gpu":
        return "--decode gpu needs a GPU"
    if has_gpu() and actors.actor_gpus != 0:
        return "this machine has a GPU"
    return None


class LocalChildren:
    """Children of this process that wait for work; a context manager."""

    def __init__(self) -> None:
        self._idle: dict[Kind, list[ChildProcess]] = {"reader": [], "segmenter": []}

    def start_early(self) -> None:
        """Starts what any run needs, before it is known whether there is work."""
        for kind in KINDS:
            self._idle[kind].append(_started(kind))

    def __enter__(self) -> "LocalChildren":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the children that nobody took."""
        for children in self._idle.values():
            while children:
                children.pop().end()

    def take(self, kind: Kind) -> ChildProcess:
        """Returns a child that has no work, a new one where none waits; the caller ends it."""
        return self._idle[kind].pop() if self._idle[kind] else _started(kind)

    def check_model(self, folder: str) -> None:
        """Raises ValueError, in one line, where the weights are not those of the configuration.

        A segmenter checks it, which has loaded what it takes.
        """
        child = self.take("segmenter")
        try:
            child.connection.send(CheckModel(folder=folder))
            answer = child.connection.recv()
        except (EOFError, ConnectionError) as error:
            said = child.last_error()
            child.end()
            raise ValueError(f"checking {folder} failed: {said}") from error
        self._idle["segmenter"].append(child)
        if answer.kind == "error":
            raise ValueError(" ".join(str(answer.content).split())) from answer.content


def _started(kind: Kind) -> ChildProcess:
    environment = _OF_SEGMENTERS if kind == "segmenter" else None
    return ChildProcess(_CHILD, kind, *LIBRARIES[kind], environment=environment)

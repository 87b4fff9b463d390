"""The cluster: how many actors, and what each process may use of its machine.

Works the same on a laptop and on a hundred nodes: what is not set is derived from what Ray sees.
"""

import contextlib
import logging
import math
import os
import sys
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

import maskformer
import pipeline
from maskformer import MaskFormerImageProcessor

_OWN_CLUSTER = {
    # Else idle ones beyond the number of cores end after a second, and a start is 1.5 s of a core.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Of each process, for dashboards: 1 % of a core at every five seconds.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
_ON_THE_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # is heeded on all systems


def connect(address: str | None = None) -> None:
    """Joins the cluster at `address` or in RAY_ADDRESS; with neither, starts one on this machine.

    Raises:
        ConnectionError: no cluster answers there, or none could be started.
    """
    _be_quiet()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_started_here(address):
        _let_workers_find_this_code()
        _stay_on_this_machine()
        for name, value in _OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        _publish_no_statistics()
        try:
            with _native_stderr_closed(), _without_processes_nobody_asks():
                ray.init(
                    address="local",
                    _node_ip_address="127.0.0.1",
                    include_dashboard=False,
                    **settings,
                )
        except Exception as error:  # Ray has no class of its own for it
            raise ConnectionError(f"Ray did not start on this machine: {error}") from error
        return
    address = address or os.environ["RAY_ADDRESS"]
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # Not submitted, so that no working directory brings our code to the other nodes.
        settings["runtime_env"] = {"py_modules": [maskformer, pipeline]}
    try:
        with _native_stderr_closed():
            ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


def is_started_here(address: str | None) -> bool:
    """Whether `connect` starts a cluster, that is for this run alone and ends with it."""
    return not (address or os.environ.get("RAY_ADDRESS"))


def _let_workers_find_this_code() -> None:
    """Puts the checkout on the path of all processes that Ray starts from this one.

    They would look in the folder where the user stands, and then for a package that is installed.
    """
    root = str(Path(pipeline.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root


def _stay_on_this_machine() -> None:
    """Has all processes that Ray starts from this one listen on 127.0.0.1 alone.

    On Linux it takes that address for the machine's own on the network, and listens there.
    """
    if _ON_THE_NETWORK not in os.environ:
        os.environ[_ON_THE_NETWORK] = "0"
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # was read from there on import


def _be_quiet() -> None:
    """Leaves the terminal to our own lines: Ray's are in its logs."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Of each process that ends it prints a paragraph, whatever it is told of logs.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    # The one way that 2.60 has to bound retries is announced to change with 2.64.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)


@contextlib.contextmanager
def _without_processes_nobody_asks() -> Iterator[None]:
    """A cluster for one run neither scales, nor shows pages, nor sends logs to its driver: without
    the processes for that it starts with 3 s less of a core's time."""
    others = ["start_monitor", "start_log_monitor", "start_api_server"]
    node = ray._private.node.Node
    with mock.patch.multiple(node, **dict.fromkeys(others, mock.DEFAULT)):
        yield


def _publish_no_statistics() -> None:
    """Ray Data's go to an actor, whom dashboards and Prometheus ask: 2 s of a core, 120 MB."""
    manager = ray.data._internal.stats._StatsManager
    for name in (
        "register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics",
    ):  # fmt: skip
        setattr(manager, name, staticmethod(lambda *_, **__: None))
    manager.gen_dataset_id_from_stats_actor = staticmethod(lambda: uuid.uuid4().hex)


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Ray's C++ part says on the terminal that it will be quiet; what fails comes as exceptions."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """Number and size of actors. What is None follows from the cluster."""

    ray_address: str | None = None
    """Cluster to work on; RAY_ADDRESS, or one that is started on this machine for the run."""
    num_actors: int | None = None
    """Actors in all; one for each GPU, or one for each core without, as far as memory allows."""
    actor_gpus: float | None = None
    """GPUs of an actor, 0.5 for two on one; 1, or 0 on a cluster without GPUs."""
    actor_cpus: float | None = None
    """CPUs that an actor reserves; a fifth of a node's for all its actors, beside GPUs at most 1
    for each."""
    reader_cpus: float = 0.5
    """CPUs that a reading task reserves."""
    block_images: int | None = None
    """Images that go to an actor at once, of the usual shape; 64 beside a GPU, or 16."""

    def __post_init__(self) -> None:
        for name in ("num_actors", "actor_gpus", "actor_cpus", "reader_cpus", "block_images"):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name != "actor_gpus")):
                raise ValueError(f"{name} must be above 0, got {value}")


# What an actor on a CPU is given room for: a large model, its activations and one image.
_ACTOR_BYTES = 3 * 2**30

# The actors of a node that went away come to another, and must leave a reader its CPUs there.
_ACTORS_SHARE = 0.2

_USUAL_SIZE = (480, 640)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What each kind of process asks Ray for."""

    fewest_actors: int
    most_actors: int
    actor_gpus: float
    actor_cpus: float
    actor_threads: int | None
    block_images: int
    reader_cpus: float
    stager_cpus: float
    num_nodes: int = 1

    @classmethod
    def of_cluster(cls, settings: ActorSettings) -> "Machines":
        """Decides for the nodes that are alive now."""
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        actor_gpus = settings.actor_gpus
        if actor_gpus is None:
            actor_gpus = 1.0 if gpus else 0.0
        if actor_gpus:
            on_gpus = [node for node in nodes if node.get("GPU")]
            cpus = min((n["CPU"] * actor_gpus / n["GPU"] for n in on_gpus), default=1.0)
            actor_cpus = settings.actor_cpus or min(1.0, _ACTORS_SHARE * cpus)
            possible = int(gpus / actor_gpus)
            threads = None
        else:
            cores = min(node["CPU"] for node in nodes)
            per_node = _actors_per_node(nodes, settings)
            actor_cpus = settings.actor_cpus or _ACTORS_SHARE * cores / per_node
            possible = per_node * len(nodes)
            # A core each is faster than sharing them, and nobody waits for another's threads.
            threads = max(1, int(cores / per_node))
        wanted = settings.num_actors or max(1, possible)
        return cls(
            fewest_actors=1 if settings.num_actors is None else wanted,
            most_actors=wanted,
            actor_gpus=actor_gpus,
            actor_cpus=actor_cpus,
            actor_threads=threads,
            block_images=settings.block_images or (64 if actor_gpus else 16),
            # Equal requests would let Ray fuse reading into the actor: then a GPU waits for JPEGs.
            reader_cpus=settings.reader_cpus + (0.01 if settings.reader_cpus == actor_cpus else 0),
            stager_cpus=0.1,
            num_nodes=len(nodes),
        )

    def first_actors(self, num_images: int) -> int:
        """How many start at once: all that get a block each, of about so many images.

        One after the other, as Ray Data adds them to a pool, takes its time: each has to load a
        model before it is seen that another is wanted.
        """
        blocks = num_images // self.block_images
        return min(max(self.fewest_actors, blocks), self.most_actors)

    def block_bytes(self, processor: MaskFormerImageProcessor) -> int:
        """Pixels of a block: so many photographs of the usual shape, at the model's size."""
        height, width = processor.resized_size(_USUAL_SIZE)
        return self.block_images * height * width * 3


def _actors_per_node(nodes: list[dict[str, float]], settings: ActorSettings) -> int:
    """How many actors without a GPU share the smallest node."""
    cores = min(node["CPU"] for node in nodes)
    if settings.actor_cpus is not None:
        return max(1, int(cores // settings.actor_cpus))
    if settings.num_actors is not None:
        return math.ceil(settings.num_actors / len(nodes))
    memory = min(node.get("memory", 0) for node in nodes)
    return max(1, min(int(cores), int(memory / _ACTOR_BYTES)))

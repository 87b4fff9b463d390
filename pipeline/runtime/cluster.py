"""Connects to a Ray cluster and decides how many actors it runs, and what each may use.

Works the same on a laptop and on a hundred nodes: settings that are None follow from the cluster.
"""

import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

import maskformer
import pipeline
from maskformer import MaskFormerImageProcessor
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.inside_ray import listen_on_this_machine_only
from pipeline.runtime.node_groups import NodeGroup, living_nodes

_OWN_CLUSTER = {
    # Ray ends surplus idle workers after 1 s by default; each start costs 1.5 CPU-seconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Ray measures each process every 5 s by default, which takes 1 % of a core.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}

_CODE = {"py_modules": [maskformer, pipeline], "excludes": ["/demo/"]}
"""Our code for the nodes of a cluster; without `pipeline/demo`, which no worker imports."""


def connect(address: str | None = None, *, dashboard: bool = False) -> None:
    """Connects to the cluster at `address` or in RAY_ADDRESS, or starts one on this machine.

    Args:
        dashboard: whether to print where Ray's dashboard is; a cluster that is started here has one
            only then.

    Raises:
        ConnectionError: no cluster answers there, or none could be started.
    """
    _log_errors_only()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_started_here(address):
        _let_workers_find_this_code()
        for name, value in _OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        try:
            context = ray.init(
                address="local",
                include_dashboard=dashboard,
                **listen_on_this_machine_only(),
                **settings,
            )
        except Exception as error:  # Ray has no class of its own for it
            raise ConnectionError(f"Ray did not start on this machine: {error}") from error
    else:
        context = _join(address or os.environ["RAY_ADDRESS"], settings)
    if dashboard:
        url = context.dashboard_url
        where = f"http://{url}" if url else "this cluster has none"
        print(f"Ray dashboard: {where}", file=sys.stderr, flush=True)


def _join(address: str, settings: dict[str, Any]) -> Any:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # Not a submitted job, whose working directory would bring our code to the other nodes.
        settings = {**settings, "runtime_env": _CODE}
    try:
        return ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


def is_started_here(address: str | None) -> bool:
    """Returns whether `connect` starts a cluster, which serves this run alone and ends with it."""
    return not (address or os.environ.get("RAY_ADDRESS"))


def _let_workers_find_this_code() -> None:
    """Puts the checkout on the path of all processes that Ray starts from this one.

    By default they look in the user's current folder, then for an installed package.
    """
    root = str(Path(pipeline.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root


def _log_errors_only() -> None:
    """Lets Ray print errors only, by its public settings; its log files have the rest."""
    # Ray prints one line that names this variable. Without it, it warns of Ray Data's own actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


# An actor on a CPU needs memory for a large model, its activations and one image.
_ACTOR_BYTES = 3 * 2**30

# Actors of a lost node move to another one, and must leave CPUs for a reader there.
_ACTORS_SHARE = 0.2

# An actor on a GPU launches in one thread and finishes rows in two: without a core for each, the
# GPU waits. Nodes with fewer cores for each GPU leave them to the readers.
_CPUS_BESIDE_A_GPU = 3.0
_CPUS_TO_SPARE = 8

_USUAL_SIZE = (480, 640)

# Images of a block beside GPUs.
_LARGEST_BLOCK, _SMALLEST_BLOCK = 256, 64
_BLOCKS_OF_AN_ACTOR = 4
# Pixels of a usual photograph at the size of usual models.
_PIXEL_BYTES = 3 * 512 * 704


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The numbers and resources of each kind of process."""

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
    def of_cluster(
        cls,
        settings: ActorSettings,
        *,
        group: NodeGroup | None = None,
        gpus_left_alone: int = 0,
    ) -> "Machines":
        """Decides for the nodes that are alive now, or for those of a group.

        Args:
            gpus_left_alone: how many GPUs of these nodes get no actor.
        """
        alive = living_nodes()
        if group is not None:
            alive = [node for node in alive if node["NodeID"] in group.node_ids]
        nodes = [node["Resources"] for node in alive]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        actor_gpus = settings.actor_gpus
        if actor_gpus is None:
            actor_gpus = 1.0 if gpus else 0.0
        if actor_gpus:
            on_gpus = [node for node in nodes if node.get("GPU")]
            cpus = min((n["CPU"] * actor_gpus / n["GPU"] for n in on_gpus), default=1.0)
            actor_cpus = settings.actor_cpus or _cpus_beside_a_gpu(cpus)
            possible = int((gpus - gpus_left_alone) / actor_gpus)
            threads = None
        else:
            cores = min(node["CPU"] for node in nodes)
            per_node = _actors_per_node(nodes, settings)
            actor_cpus = settings.actor_cpus or _ACTORS_SHARE * cores / per_node
            possible = per_node * len(nodes)
            # Actors with cores of their own are faster than actors that share them.
            threads = max(1, int(cores / per_node))
        wanted = settings.num_actors or max(1, possible)
        if gpus_left_alone:  # else nodes may come later
            wanted = min(wanted, max(1, possible))
        reader_cpus = settings.reader_cpus_beside(actor_gpus=actor_gpus)
        return cls(
            # Datasets side by side get no part of a node's only GPU to add actors with.
            fewest_actors=1 if settings.num_actors is None and group is None else wanted,
            most_actors=wanted,
            actor_gpus=actor_gpus,
            actor_cpus=actor_cpus,
            actor_threads=threads,
            block_images=settings.block_images or (_block_images(nodes) if actor_gpus else 16),
            # Ray fuses operators of equal requests: then a GPU would wait for JPEGs.
            reader_cpus=reader_cpus + (0.01 if reader_cpus == actor_cpus else 0),
            stager_cpus=0.1,
            num_nodes=len(nodes),
        )

    @property
    def blocks_ahead(self) -> int:
        """Returns how many blocks an actor has at once, with the one that it works on.

        On CPUs a block takes half a minute: what an actor holds beside the next one is missing on
        the others at the end.
        """
        return 4 if self.actor_gpus else 2

    def first_actors(self, num_images: int) -> int:
        """Returns how many actors start at once: one for each block of the images.

        Ray Data itself adds actors to a pool one by one, each only after the one before has loaded
        its model.
        """
        blocks = num_images // self.block_images
        return min(max(self.fewest_actors, blocks), self.most_actors)

    def block_bytes(self, processor: MaskFormerImageProcessor) -> int:
        """Returns the bytes of a block: `block_images` typical photographs at the model's size."""
        height, width = processor.resized_size(_USUAL_SIZE)
        return self.block_images * height * width * 3


def _block_images(nodes: list[dict[str, float]]) -> int:
    """Returns the images of a block: fewer where a node with GPUs has no room for large ones.

    A block costs the driver the same whatever it holds. A node holds one for each CPU, whose reader
    fills it, and some for each actor; Ray Data takes half of the object store.
    """
    images = _LARGEST_BLOCK
    for node in nodes:
        if not node.get("GPU"):
            continue
        blocks = node["CPU"] + _BLOCKS_OF_AN_ACTOR * node["GPU"]
        room = node.get("object_store_memory", 0) / 2 / (blocks * _PIXEL_BYTES)
        while images > _SMALLEST_BLOCK and images > room:
            images //= 2
    return images


def _cpus_beside_a_gpu(cpus: float) -> float:
    """Returns what an actor reserves of the CPUs that its node has for each actor."""
    return _CPUS_BESIDE_A_GPU if cpus >= _CPUS_TO_SPARE else min(1.0, _ACTORS_SHARE * cpus)


def _actors_per_node(nodes: list[dict[str, float]], settings: ActorSettings) -> int:
    """Returns how many actors without a GPU share the smallest node."""
    cores = min(node["CPU"] for node in nodes)
    if settings.actor_cpus is not None:
        return max(1, int(cores // settings.actor_cpus))
    if settings.num_actors is not None:
        return math.ceil(settings.num_actors / len(nodes))
    memory = min(node.get("memory", 0) for node in nodes)
    return max(1, min(int(cores), int(memory / _ACTOR_BYTES)))

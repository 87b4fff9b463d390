"""Decides how many processes of each kind a run has, and what each may use.

Works the same on a laptop and on a hundred nodes: settings that are None follow from the nodes.
Starts without Ray.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskformer import MaskFormerImageProcessor
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.node_groups import NodeGroup, living_nodes

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
# An actor on one machine gets as many: while it works on a block, the next is read.
_FEWEST_BLOCKS = 5
# Its start takes as long as some tens of images.
_IMAGES_OF_AN_ACTOR = 64
# Pixels of a usual photograph at the size of usual models.
_PIXEL_BYTES = 3 * 512 * 704


# Ray leaves as much to the system.
_MEMORY_SHARE = 0.7


def this_machine() -> dict[str, float]:
    """Returns the CPUs and the memory that this process may use, named as Ray names them."""
    return {"CPU": float(_num_cpus()), "memory": _MEMORY_SHARE * memory_bytes()}


def _num_cpus() -> int:
    cpus = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    share, _, period = (quota.read_text() if quota.is_file() else "max").strip().partition(" ")
    return min(cpus, max(1, int(share) // int(period))) if share.isdecimal() else cpus


def memory_bytes() -> int:
    """Returns the memory that this process may use: the machine's, or its container's share."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min([*sizes, *([int(text)] if text.isdecimal() else [])])


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
        if group is None:
            nodes = [node["Resources"] for node in living_nodes()]
        else:
            nodes = group.resources()
        return cls.of_nodes(nodes, settings, group=group, gpus_left_alone=gpus_left_alone)

    @classmethod
    def of_nodes(
        cls,
        nodes: Sequence[Mapping[str, float]],
        settings: ActorSettings,
        *,
        group: NodeGroup | None = None,
        gpus_left_alone: int = 0,
    ) -> "Machines":
        """Decides for nodes with these resources, named as Ray names them."""
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

    @property
    def num_readers(self) -> int:
        """Returns how many readers work beside actors that share a machine's cores."""
        return max(1, (self.actor_threads or 1) * self.most_actors // 2)

    def for_images(self, num_images: int) -> "Machines":
        """Returns the machines of a small run on one node: few blocks, and no core without work."""
        wanted = max(self.fewest_actors, num_images // _IMAGES_OF_AN_ACTOR)
        actors = min(wanted, self.most_actors)
        cores = (self.actor_threads or 1) * self.most_actors
        blocks = _FEWEST_BLOCKS * actors
        return replace(
            self,
            fewest_actors=actors,
            most_actors=actors,
            actor_threads=max(1, cores // actors),
            block_images=max(1, min(self.block_images, num_images // blocks)),
        )

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


def _block_images(nodes: Sequence[Mapping[str, float]]) -> int:
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


def _actors_per_node(nodes: Sequence[Mapping[str, float]], settings: ActorSettings) -> int:
    """Returns how many actors without a GPU share the smallest node."""
    cores = min(node["CPU"] for node in nodes)
    if settings.actor_cpus is not None:
        return max(1, int(cores // settings.actor_cpus))
    if settings.num_actors is not None:
        return math.ceil(settings.num_actors / len(nodes))
    memory = min(node.get("memory", 0) for node in nodes)
    return max(1, min(int(cores), int(memory / _ACTOR_BYTES)))

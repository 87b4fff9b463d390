"""Cuts a cluster with many GPUs into groups of nodes, each of which gets a driver of its own.

One driver keeps up with some tens of thousands of images a second. Ray Data runs a dataset on the
nodes of a group alone by a label selector, and shares the resources of each node evenly among all
datasets of the cluster, in whole CPUs: so there are no more groups than a node has CPUs. Where
nodes are too few, as one with eight GPUs, groups share them: each has limits.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NODE_ID = "ray.io/node-id"
_GROUP_GPUS = 4
"""Of 1,000 images a second each, which keep a driver's core busy for 0.3 to 0.75 of the time."""


@dataclass(frozen=True, kw_only=True)
class NodePart:
    """A share of a node: the part of this number, from 0, of so many equal ones."""

    number: int = 0
    of: int = 1


_WHOLE = NodePart()


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Nodes, or parts of nodes, that work on one dataset, and their resources added up."""

    parts: Mapping[str, NodePart]
    """By the id of the node."""
    num_cpus: float
    num_gpus: float
    object_store_bytes: float

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(self.parts)

    @property
    def label_selector(self) -> dict[str, str]:
        """Returns the selector with which Ray places tasks and actors on these nodes alone."""
        return {_NODE_ID: f"in({','.join(self.parts)})"}

    def still_alive(self) -> "NodeGroup | None":
        """Returns the group without nodes that are lost; None where no GPU is left."""
        group = _group(self._living_parts())
        return group if group.num_gpus else None

    def resources(self) -> list[Mapping[str, float]]:
        """Returns the group's part of each of its living nodes, named as Ray names resources."""
        return [part.resources() for part in self._living_parts()]

    def counts_gpu(self, *, node_id: str, index: str) -> bool:
        """Returns whether a GPU is one of the group's; each GPU is one of one group.

        Args:
            index: what Ray calls the GPU: a number, or the UUID of a card or of a part of one.
        """
        part = self.parts.get(node_id)
        return part is not None and zlib.crc32(index.encode()) % part.of == part.number

    def _living_parts(self) -> "list[_Part]":
        alive = [node for node in living_nodes() if node["NodeID"] in self.parts]
        return [_Part(node, self.parts[node["NodeID"]]) for node in alive]


@dataclass(frozen=True)
class _Part:
    node: Mapping[str, Any]
    part: NodePart = _WHOLE

    def resources(self) -> dict[str, float]:
        return {name: value / self.part.of for name, value in self.node["Resources"].items()}

    def get(self, resource: str) -> float:
        return float(self.node["Resources"].get(resource, 0)) / self.part.of


@dataclass
class _Share:
    parts: list[_Part] = field(default_factory=list)

    def total(self, resource: str) -> float:
        return sum(part.get(resource) for part in self.parts)

    def has(self, node: Mapping[str, Any]) -> bool:
        return any(part.node["NodeID"] == node["NodeID"] for part in self.parts)


def living_nodes() -> list[Mapping[str, Any]]:
    """Returns the nodes that can work now, as `ray.nodes` describes them."""
    import ray  # not loaded in runs of this machine's own processes

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def node_groups(*, most_gpus: float | None = None) -> Sequence[NodeGroup]:
    """Returns groups of nodes with some 4 GPUs or more each; none where one driver is enough.

    Args:
        most_gpus: GPUs that the run takes; None for all.
    """
    nodes = sorted(living_nodes(), key=lambda node: str(node["NodeID"]))
    with_gpus = [node for node in nodes if node["Resources"].get("GPU")]
    gpus = sum(node["Resources"]["GPU"] for node in with_gpus)
    wanted = gpus if most_gpus is None else min(gpus, most_gpus)
    cpus = min((int(node["Resources"]["CPU"]) for node in nodes), default=0)
    count = min(int(wanted // _GROUP_GPUS), cpus)
    parts = _parts(with_gpus, count=count)
    count = min(count, len(parts))
    if count < 2:
        return ()
    shares = [_Share() for _ in range(count)]
    for part in sorted(parts, key=lambda part: -part.get("GPU")):
        others = [share for share in shares if not share.has(part.node)]
        min(others, key=lambda share: share.total("GPU")).parts.append(part)
    for node in nodes:  # those without a GPU have readers
        if not node["Resources"].get("GPU"):
            min(shares, key=lambda share: share.total("CPU")).parts.append(_Part(node))
    return [_group(share.parts) for share in shares]


def _parts(nodes: Sequence[Mapping[str, Any]], *, count: int) -> list[_Part]:
    """Returns whole nodes where they are enough for so many groups; else large ones are cut."""
    found = []
    for node in nodes:
        most = min(int(node["Resources"]["GPU"] // _GROUP_GPUS), count)
        of = max(1, most if len(nodes) < count else 1)
        found += [_Part(node, NodePart(number=number, of=of)) for number in range(of)]
    return found


def _group(parts: Sequence[_Part]) -> NodeGroup:
    share = _Share(parts=list(parts))
    return NodeGroup(
        parts={part.node["NodeID"]: part.part for part in parts},
        num_cpus=share.total("CPU"),
        num_gpus=share.total("GPU"),
        object_store_bytes=share.total("object_store_memory"),
    )

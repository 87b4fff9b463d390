"""Cuts a cluster with many GPUs into groups of nodes, each of which gets a driver of its own.

One driver keeps up with some tens of thousands of images a second. Ray Data runs a dataset on the
nodes of a group alone by a label selector, and shares the resources of each node evenly among all
datasets of the cluster, in whole CPUs: so there are no more groups than a node has CPUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NODE_ID = "ray.io/node-id"
_GROUP_GPUS = 4
"""Of 1,000 images a second each, which keep a driver's core busy for 0.3 to 0.75 of the time."""


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Nodes that work on one dataset, and their resources added up."""

    node_ids: tuple[str, ...]
    num_cpus: float
    num_gpus: float
    object_store_bytes: float

    @property
    def label_selector(self) -> dict[str, str]:
        """Returns the selector with which Ray places tasks and actors on these nodes alone."""
        return {_NODE_ID: f"in({','.join(self.node_ids)})"}

    def still_alive(self) -> "NodeGroup | None":
        """Returns the group without nodes that are lost; None where no GPU is left."""
        alive = [node for node in living_nodes() if node["NodeID"] in self.node_ids]
        group = _group(alive)
        return group if group.num_gpus else None


@dataclass
class _Share:
    nodes: list[Mapping[str, Any]] = field(default_factory=list)

    def total(self, resource: str) -> float:
        return sum(node["Resources"].get(resource, 0) for node in self.nodes)


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
    count = min(int(wanted // _GROUP_GPUS), len(with_gpus), cpus)
    if count < 2:
        return ()
    shares = [_Share() for _ in range(count)]
    for node in sorted(with_gpus, key=lambda node: -node["Resources"]["GPU"]):
        min(shares, key=lambda share: share.total("GPU")).nodes.append(node)
    for node in nodes:  # those without a GPU have readers
        if not node["Resources"].get("GPU"):
            min(shares, key=lambda share: share.total("CPU")).nodes.append(node)
    return [_group(share.nodes) for share in shares]


def _group(nodes: Sequence[Mapping[str, Any]]) -> NodeGroup:
    share = _Share(nodes=list(nodes))
    return NodeGroup(
        node_ids=tuple(node["NodeID"] for node in nodes),
        num_cpus=share.total("CPU"),
        num_gpus=share.total("GPU"),
        object_store_bytes=share.total("object_store_memory"),
    )

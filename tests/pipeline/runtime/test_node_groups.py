"""The nodes of a large cluster are cut into groups, each for a driver of its own."""

import pytest
import ray

from pipeline.runtime.node_groups import NodeGroup, node_groups


def node(name: str, **resources: float) -> dict:
    return {"NodeID": name, "Alive": True, "Resources": {"CPU": 16, **resources}}


@pytest.mark.parametrize(
    ("nodes", "most_gpus", "expected"),
    [
        ([node("a", GPU=8)], None, []),
        ([node("a", GPU=16)], None, []),  # one node is one group
        ([node("a", GPU=8), node("b", GPU=8)], None, [{"a"}, {"b"}]),
        ([node("a", GPU=8), node("b", GPU=8)], 7, []),
        ([node("a", GPU=4), node("b", GPU=4)], None, [{"a"}, {"b"}]),
        ([node("a", GPU=4), node("b", GPU=3)], None, []),
        ([node("a"), node("b")], None, []),
        ([node("a", GPU=8), node("b", GPU=8), node("c")], None, [{"a", "c"}, {"b"}]),
        ([node(f"{n:02}", GPU=1) for n in range(16)], None, [4] * 4),
        # Shares of a node are whole CPUs: as many datasets as a node has.
        ([node(f"{n:02}", GPU=1) | {"Resources": {"CPU": 4, "GPU": 1}} for n in range(100)],
         None, [25] * 4),
    ],
)  # fmt: skip
def test_groups_have_four_gpus_or_more(nodes, most_gpus, expected, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    groups = node_groups(most_gpus=most_gpus)
    if expected and isinstance(expected[0], int):
        assert [len(group.node_ids) for group in groups] == expected
    else:
        assert [set(group.node_ids) for group in groups] == expected
    names = [name for group in groups for name in group.node_ids]
    assert len(set(names)) == len(names)


def test_a_group_goes_on_without_the_nodes_that_it_lost(monkeypatch):
    lost = node("b", GPU=8) | {"Alive": False}
    monkeypatch.setattr(ray, "nodes", lambda: [node("a", GPU=4), lost, node("c", GPU=8)])
    group = NodeGroup(node_ids=("a", "b"), num_cpus=32, num_gpus=12, object_store_bytes=0)
    assert group.still_alive() == NodeGroup(
        node_ids=("a",), num_cpus=16, num_gpus=4, object_store_bytes=0
    )
    assert (
        NodeGroup(node_ids=("b",), num_cpus=16, num_gpus=8, object_store_bytes=0).still_alive()
        is None
    )

"""The nodes of a large cluster are cut into groups, each for a driver of its own."""

import pytest
import ray

from pipeline.runtime.node_groups import NodeGroup, NodePart, node_groups

WHOLE = NodePart()


def node(name: str, **resources: float) -> dict:
    return {"NodeID": name, "Alive": True, "Resources": {"CPU": 16, **resources}}


@pytest.mark.parametrize(
    ("nodes", "most_gpus", "expected"),
    [
        ([node("a", GPU=7)], None, []),
        ([node("a", GPU=8)], 7, []),
        ([node("a", GPU=8), node("b", GPU=8)], 8, [{"a"}, {"b"}]),
        ([node("a", GPU=8), node("b", GPU=8)], 7, []),
        ([node("a", GPU=4), node("b", GPU=4)], None, [{"a"}, {"b"}]),
        ([node("a", GPU=4), node("b", GPU=3)], None, []),
        ([node("a"), node("b")], None, []),
        ([node("a", GPU=8), node("b", GPU=8), node("c")], 8, [{"a", "c"}, {"b"}]),
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


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("a", GPU=8)], [{"a": 2}, {"a": 2}]),
        ([node("a", GPU=16), node("b")], [{"a": 4, "b": 1}, {"a": 4}, {"a": 4}, {"a": 4}]),
        ([node("a", GPU=8), node("b", GPU=4)], [{"a": 2}, {"a": 2}, {"b": 1}]),
        ([node("a", GPU=7), node("b", GPU=7), node("c", GPU=8)],
         [{"a": 1}, {"b": 1}, {"c": 2}, {"c": 2}]),
        # Shares of a node are whole CPUs.
        ([node("a", GPU=16) | {"Resources": {"CPU": 3, "GPU": 16}}], [{"a": 3}] * 3),
    ],
)  # fmt: skip
def test_groups_share_a_node_where_there_are_fewer_nodes(nodes, expected, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    groups = node_groups()
    found = [{name: part.of for name, part in group.parts.items()} for group in groups]
    assert sorted(found, key=str) == sorted(expected, key=str)
    for each in nodes:
        name, gpus = each["NodeID"], int(each["Resources"].get("GPU", 0))
        for index in [*map(str, range(gpus)), "GPU-1b2c", "MIG-3d4e"] if gpus else []:
            assert sum(group.counts_gpu(node_id=name, index=index) for group in groups) == 1
        resources = [each for group in groups for each in group.resources()]
    for kind in ("CPU", "GPU"):
        of_nodes = sum(each["Resources"].get(kind, 0) for each in nodes)
        assert sum(each.get(kind, 0) for each in resources) == pytest.approx(of_nodes)
    assert sum(group.num_gpus for group in groups) == sum(
        each["Resources"].get("GPU", 0) for each in nodes
    )


def test_a_group_goes_on_without_the_nodes_that_it_lost(monkeypatch):
    lost = node("b", GPU=8) | {"Alive": False}
    monkeypatch.setattr(ray, "nodes", lambda: [node("a", GPU=4), lost, node("c", GPU=8)])
    group = NodeGroup(
        parts={"a": WHOLE, "b": WHOLE}, num_cpus=32, num_gpus=12, object_store_bytes=0
    )
    assert group.still_alive() == NodeGroup(
        parts={"a": WHOLE}, num_cpus=16, num_gpus=4, object_store_bytes=0
    )
    assert (
        NodeGroup(parts={"b": WHOLE}, num_cpus=16, num_gpus=8, object_store_bytes=0).still_alive()
        is None
    )

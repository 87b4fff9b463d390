"""Defaults follow from the nodes of the cluster, beside GPUs and without."""

import pytest
import ray

from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch):
    """Decides for nodes with such resources."""

    def decided(*nodes: dict[str, float], **settings) -> Machines:
        alive = [{"Alive": True, "Resources": resources} for resources in nodes]
        monkeypatch.setattr(ray, "nodes", lambda: alive)
        return Machines.of_cluster(ActorSettings(**settings))

    return decided


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"),
    [(16, 1, 3.0), (8, 1, 3.0), (192, 8, 3.0), (7, 1, 1.0), (32, 8, 0.8), (2, 1, 0.4)],
)
def test_an_actor_beside_a_gpu_has_three_cores_where_there_are_eight(
    machines, cpus, gpus, expected
):
    found = machines({"CPU": cpus, "GPU": gpus}, {"CPU": 64})
    assert found.actor_cpus == pytest.approx(expected)
    assert found.most_actors == gpus  # one for each GPU
    assert found.actor_gpus == 1
    others = found.reader_cpus + found.stager_cpus
    assert found.most_actors * found.actor_cpus + others <= cpus


def test_a_node_with_few_cores_decides_for_all_actors(machines):
    found = machines({"CPU": 64, "GPU": 4}, {"CPU": 4, "GPU": 1})
    assert found.actor_cpus == pytest.approx(0.8)


def test_two_actors_of_one_gpu_share_its_cores(machines):
    assert machines({"CPU": 16, "GPU": 1}, actor_gpus=0.5).actor_cpus == 3
    assert machines({"CPU": 12, "GPU": 1}, actor_gpus=0.5).actor_cpus == 1


def test_a_reader_takes_a_core_beside_a_gpu_and_half_of_one_elsewhere(machines):
    assert machines({"CPU": 16, "GPU": 1}).reader_cpus == 1
    assert machines({"CPU": 16}).reader_cpus == 0.5


def test_what_people_set_is_what_they_get(machines):
    found = machines({"CPU": 16, "GPU": 2}, actor_cpus=2, reader_cpus=0.25, num_actors=1)
    assert (found.actor_cpus, found.reader_cpus, found.most_actors) == (2, 0.25, 1)


def test_readers_and_actors_never_ask_for_the_same(machines):
    """Ray would fuse them, and a GPU would wait for JPEGs."""
    for settings in ({"actor_cpus": 1.0}, {"actor_cpus": 0.5, "reader_cpus": 0.5}, {}):
        for node in ({"CPU": 16, "GPU": 1}, {"CPU": 7, "GPU": 1}, {"CPU": 4}):
            found = machines(node, **settings)
            assert found.actor_cpus != found.reader_cpus

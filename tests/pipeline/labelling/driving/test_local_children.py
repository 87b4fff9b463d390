"""Small runs take no cluster, unless they ask for what only a cluster has."""

import pytest

from pipeline.corpora.settings import ReadSettings
from pipeline.labelling.driving import local_children
from pipeline.labelling.driving.local_children import may_be_local
from pipeline.labelling.settings import LabelSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.runtime.settings import Settings, WrongUsage


def settings(*, local: bool | None = None, dry_run: bool = False, decode="exact", **actors):
    label = LabelSettings(corpus="c", table="t", model="m", local=local, dry_run=dry_run)
    return Settings(parts=(label, ReadSettings(decode=decode), ActorSettings(**actors)))


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local_children, "has_gpu", lambda: False)


@pytest.mark.parametrize(
    "given", [{}, {"num_actors": 2}, {"block_images": 4}, {"actor_gpus": 0}, {"local": True}]
)
def test_a_run_may_do_without_a_cluster(given):
    assert may_be_local(settings(**given))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"ray_address": "auto"}, "--ray_address is for a Ray cluster"),
        ({"actor_cpus": 0.5}, "--actor_cpus is for a Ray cluster"),
        ({"dashboard": True}, "--dashboard is for a Ray cluster"),
        ({"decode": "gpu"}, "--decode gpu needs a GPU"),
        ({"dry_run": True}, "--dry_run uses it"),
    ],
)
def test_what_needs_a_cluster_takes_one_and_is_an_error_where_none_is_wanted(given, why):
    assert not may_be_local(settings(**given))
    assert not may_be_local(settings(local=False, **given))
    with pytest.raises(WrongUsage, match=why):
        may_be_local(settings(local=True, **given))


def test_gpus_and_clusters_that_are_there_are_used(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not may_be_local(settings())
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(local_children, "has_gpu", lambda: True)
    assert not may_be_local(settings())
    assert may_be_local(settings(actor_gpus=0))


@pytest.mark.parametrize(
    ("num_images", "given", "expected"),
    [
        (3, {}, (1, 4, 1)),
        (20, {}, (1, 4, 4)),
        (2000, {}, (4, 1, 16)),
        (20, {"num_actors": 2}, (2, 2, 2)),
        (2000, {"block_images": 5}, (4, 1, 5)),
    ],
)
def test_a_small_run_starts_few_segmenters_that_share_all_cores(num_images, given, expected):
    node = {"CPU": 4.0, "memory": 2.0**40}
    machines = Machines.of_nodes([node], ActorSettings(**given)).for_images(num_images)
    found = machines.first_actors(num_images), machines.actor_threads, machines.block_images
    assert found == expected

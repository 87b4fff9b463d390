"""Units are handed out once, whatever runs twice or is lost, and keep the rows of their plan."""

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
from ray_here import ray_here
from simulated_fleet import drawn_units

from pipeline.labelling.driving import unit_queue
from pipeline.labelling.driving.unit_queue import OpenUnit, PlanRows, StoredUnits, UnitDispenser
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.table.units import PLAN


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_here(__name__, num_cpus=1):
        yield


def dispenser(*names: str) -> UnitDispenser:
    return UnitDispenser({name: PlanRows(table=0, start=0, stop=int(name)) for name in names})


def taken(queue: UnitDispenser, taker: str, ticket: int) -> str | None:
    rows = queue.take(taker, ticket)
    return None if rows is None else str(rows.stop)


def test_a_ticket_that_comes_again_gets_the_same_unit():
    queue = dispenser("1", "2", "3")
    assert [taken(queue, "a", 0), taken(queue, "b", 0), taken(queue, "a", 0)] == ["1", "2", "1"]
    assert (queue.held_by("a"), queue.held_by("b"), queue.held_by("c")) == (["1"], ["2"], [])
    assert [taken(queue, "a", 1), taken(queue, "a", 2)] == ["3", None]


def test_undone_units_of_a_lost_taker_go_to_others_and_it_gets_none():
    queue = dispenser("1", "2", "3", "4")
    for ticket in range(3):
        taken(queue, "a", ticket)
    assert queue.give_back("a", over={"2"}) == ["1", "3"]
    assert taken(queue, "a", 7) is None
    assert [taken(queue, "b", ticket) for ticket in range(4)] == ["1", "3", "4", None]


def test_a_closed_queue_hands_out_no_further_unit():
    queue = dispenser("1", "2")
    taken(queue, "a", 0)
    queue.close()
    assert [taken(queue, "a", 0), taken(queue, "a", 1)] == ["1", None]


def test_whoever_is_lost_each_unit_is_done_once():
    """Takers that die at random, start again under another name, and give back what is undone."""
    for seed in range(50):
        choose = random.Random(seed)
        names = [str(number) for number in range(1, 30)]
        queue = dispenser(*names)
        done: list[str] = []
        under_way: dict[str, dict[str, None]] = {"0": {}, "1": {}, "2": {}}
        started, ticket = 3, 0
        while len(done) < len(names):
            taker = choose.choice(list(under_way))
            ticket += 1
            if (name := taken(queue, taker, ticket)) is not None:
                under_way[taker][name] = None
            if under_way[taker] and choose.random() < 0.6:
                done.append(under_way[taker].popitem()[0])
            if choose.random() < 0.1:
                assert set(queue.give_back(taker, over=set(done))) == set(under_way.pop(taker))
                under_way[str(started)] = {}
                started += 1
        assert sorted(done) == sorted(names)


def test_stored_units_have_the_rows_of_their_plan_in_few_tables(cluster, monkeypatch):
    monkeypatch.setattr(unit_queue, "_TABLE_ROWS", 4)
    units = drawn_units(10, unit_images=5)
    stored = StoredUnits.of(units)
    assert len(stored.tables) == 3
    open_unit = OpenUnit(tables=stored.tables)
    for unit in units:
        assert open_unit.unit(stored.rows[unit.unit_id]) == unit.table()
    tasks = stored.tasks()
    opened = [
        open_unit(pa.Table.from_pylist([row]))["unit_id"].to_pylist() for row in tasks.take_all()
    ]
    assert opened == [[unit.unit_id] for unit in units]
    assert tasks.num_blocks() == 10
    assert open_unit.unit(stored.rows[units[0].unit_id]).schema == PLAN


GB = 2**30


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 16, "GPU": 1, "object_store_memory": 38 * GB}, 256),
        ({"CPU": 16, "GPU": 1, "object_store_memory": 10 * GB}, 128),
        ({"CPU": 16, "GPU": 1}, 64),
        ({"CPU": 192, "GPU": 8, "object_store_memory": 200 * GB}, 256),
        ({"CPU": 16}, 16),
    ],
)
def test_blocks_beside_gpus_are_as_large_as_the_object_store_has_room_for(
    resources, expected, monkeypatch
):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources}])
    assert Machines.of_cluster(ActorSettings()).block_images == expected
    assert Machines.of_cluster(ActorSettings(block_images=7)).block_images == 7
    assert Machines.of_cluster(ActorSettings(actor_gpus=0)).block_images == 16

"""Plans put every image into one unit, whatever came before and whoever plans beside."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from corpora import parquet, put, tar
from hooked import Crash, HookedStorage, crash_at, interleaved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planned_corpora import (
    STORAGE,
    images_in,
    mark_done,
    named_files,
    plan_with,
    settle,
    shard,
    whole_corpus,
)

from pipeline.planning.planner import Plan, Unit, UnitSettings, settle_plan
from pipeline.storage import Storage
from pipeline.table.store import TableStore


def test_a_plan_that_is_done_leaves_nothing_to_do_and_is_not_read_again(tmp_path, table):
    corpus = put(tmp_path / "c", {**named_files("a.jpg", "b.jpg"), "c.tar": shard(3)})
    plan = settle(corpus, table, "run-1")
    mark_done(plan.units[:1], table)
    again = settle(corpus, table, "run-2")
    assert again.units == plan.units[1:]
    assert (again.done, again.earlier) == (1, 1)
    mark_done(again.units, table)
    last = settle(corpus, table, "run-3")
    assert (last.units, last.done) == ((), len(plan.units))
    assert not table.storage.file(table.file("_runs", "run-3", "plan.parquet"))


def test_units_of_earlier_plans_stay_when_the_corpus_grows_or_the_settings_change(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("b.jpg", "d.jpg", "f.jpg", "h.jpg"))
    before = settle(corpus, table, "run-1")
    mark_done(before.units[:1], table)
    put(tmp_path / "c", named_files("a.jpg", "c.jpg", "e.jpg", "z.jpg"))
    after = settle(corpus, table, "run-2", units=UnitSettings(unit_images=2))
    assert after.units[0] == before.units[1]
    assert [images_in([unit]) for unit in after.units[1:]] == [
        ["a.jpg", "c.jpg"],
        ["e.jpg", "z.jpg"],
    ]


def test_a_source_that_changed_is_planned_again_and_nothing_else(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    mark_done(settle(corpus, table, "run-1").units, table)
    put(tmp_path / "c", {"b.jpg": b"another and longer"})
    plan = settle(corpus, table, "run-2")
    assert images_in(plan.units) == ["b.jpg"]


def test_what_is_left_of_an_undone_unit_that_lost_a_source_is_planned_afresh(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"))
    before = settle(corpus, table, "run-1")
    Path(corpus, "b.jpg").unlink()
    plan = settle(corpus, table, "run-2")
    assert plan.units[0] == before.units[1]
    assert [images_in([unit]) for unit in plan.units[1:]] == [["a.jpg", "c.jpg"]]
    mark_done(plan.units, table)
    assert settle(corpus, table, "run-3").units == ()


def test_a_done_unit_that_lost_a_source_stays_done(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg"))
    mark_done(settle(corpus, table, "run-1").units, table)
    Path(corpus, "b.jpg").unlink()
    assert settle(corpus, table, "run-2").units == ()


def test_a_unit_that_another_run_did_before_it_lost_a_source_stays_done(tmp_path, table):
    """The other commits after this run has listed what is done; then a source goes."""
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg"))
    units = settle(corpus, table, "run-1").units

    def hook(operation: str, uri: str) -> None:
        if operation == "look" and uri == corpus and Path(corpus, "b.jpg").exists():
            mark_done(units, table)
            Path(corpus, "b.jpg").unlink()

    plan = settle(corpus, TableStore(table.uri, HookedStorage(hook)), "run-2")

    assert not Path(corpus, "b.jpg").exists()
    assert plan.units == ()
    assert plan.done == 1


def test_an_entry_that_was_missing_and_came_is_planned_then(tmp_path, table):
    corpus = put(tmp_path / "c", {"a.jpg": b"1", "list.csv": b"uri\na.jpg\nb.jpg\n"})
    manifest = f"{corpus}/list.csv"
    plan = settle(manifest, table, "run-1")
    assert images_in(plan.units) == ["a.jpg", "b.jpg"]
    mark_done(plan.units, table)
    assert settle(manifest, table, "run-2").units == ()
    put(tmp_path / "c", named_files("b.jpg"))
    assert images_in(settle(manifest, table, "run-3").units) == ["b.jpg"]


def test_a_limited_run_goes_on_with_the_units_of_one_that_was_not(tmp_path, table):
    """A run that plans only a part of an undone unit would double it: the other may still go on."""
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    everything = settle(corpus, table, "run-1")
    limited = settle(corpus, table, "run-2", limit=2)
    assert limited.units == everything.units[:1]


def test_a_run_on_a_part_of_the_corpus_goes_on_with_the_units_of_the_whole(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a/1.jpg", "b/1.jpg", "b/2.jpg"))
    everything = settle(corpus, table, "run-1")
    assert settle(f"{corpus}/b", table, "run-2").units == everything.units


KINDS = st.sampled_from(["file", "tar", "cut tar", "doubled tar", "tar.gz", "parquet"])
SIZES = st.integers(0, 7)


def drawn_file(kind: str, count: int, *, seed: int) -> tuple[str, bytes]:
    """A file's ending and bytes; no two of the same content."""
    members = [(f"{n}.jpg", bytes([seed % 256]) * 600) for n in range(count)]
    if kind == "tar":
        return "tar", tar(members)
    if kind == "cut tar":
        return "tar", tar(members)[: 512 * (2 * count - 1) if count else 100]
    if kind == "doubled tar":
        return "tar", tar([*members, *members[:1]])
    if kind == "tar.gz":
        return "tar.gz", tar(members, compressed=True)
    if kind == "parquet":
        return "parquet", parquet({"image": [b"1"] * count}, rows_per_group=2)
    return "jpg", bytes(seed)


@st.composite
def planning_rounds(draw):
    """Rounds: new files, the settings of a run on them, and which of its units it finishes."""
    rounds = draw(st.integers(1, 4))
    return [
        {
            "new": draw(st.lists(st.tuples(KINDS, SIZES, st.integers(0, 99)), max_size=5)),
            "units": UnitSettings(
                unit_images=draw(st.integers(1, 6)), unit_bytes=draw(st.integers(1000, 8000))
            ),
            "limit": draw(st.one_of(st.none(), st.integers(1, 15))),
            "finishes": draw(st.lists(st.booleans(), min_size=1, max_size=4)),
        }
        for _ in range(rounds)
    ]


@given(planning_rounds())
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_over_any_sequence_of_runs_every_image_is_in_exactly_one_finished_unit(history):
    _run_through(history)


@pytest.mark.faults
@given(planning_rounds())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_over_many_sequences_of_runs_every_image_is_in_exactly_one_finished_unit(history):
    _run_through(history)


def _run_through(history) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "c")
        has_limits = any(each["limit"] for each in history)
        table = TableStore(str(Path(folder, "table")), STORAGE)
        finished: dict[str, Unit] = {}
        numbers = itertools.count()
        corpus = put(root, {"seed.jpg": b"1"})
        for index, each in enumerate(history):
            for kind, count, order in each["new"]:
                number = next(numbers)
                if has_limits and kind == "doubled tar":
                    kind = "tar"  # a limit cuts it without having seen that a key comes again
                ending, data = drawn_file(kind, count, seed=number)
                put(root, {f"{order:02}-{number}.{ending}": data})
            plan = settle(corpus, table, f"run-{index}", units=each["units"], limit=each["limit"])
            _check_plan(plan, finished, whole_corpus(corpus), limit=each["limit"])
            chosen = zip(plan.units, itertools.cycle(each["finishes"]), strict=False)
            done = [unit for unit, is_finished in chosen if is_finished]
            mark_done(done, table)
            finished |= {unit.unit_id: unit for unit in done}
        rest = settle(corpus, table, "last")
        mark_done(rest.units, table)
        finished |= {unit.unit_id: unit for unit in rest.units}
        assert sorted(images_in(finished.values())) == sorted(whole_corpus(corpus))
        assert settle(corpus, table, "none").units == ()


def _check_plan(
    plan: Plan, finished: dict[str, Unit], everything: list[str], *, limit: int | None
) -> None:
    assert not {unit.unit_id for unit in plan.units} & finished.keys()
    images = images_in([*finished.values(), *plan.units])
    assert max(Counter(images).values(), default=0) <= 1
    assert set(everything[:limit]) <= set(images)


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 120), marks=pytest.mark.faults)], ids=str
)
def test_plans_made_at_once_on_a_growing_corpus_never_overlap(tmp_path, seeds):
    for seed in seeds:
        root = tmp_path / str(seed)
        corpus = put(root / "c", {**named_files("b.jpg", "d.jpg", "f.jpg"), "g.tar": shard(4)})

        def program(number, *, root=root, corpus=corpus):
            def run(storage: Storage) -> Plan:
                table = TableStore(str(root / "table"), storage)
                storage.file("now it grows")
                put(root / "c", named_files(f"{'ac'[number % 2]}{number}.jpg"))
                limit = 3 if number == 2 else None
                return settle(
                    corpus, table, f"run-{number}", units=UnitSettings(unit_images=2), limit=limit
                )

            return run

        plans = interleaved(*(program(number) for number in range(3)), seed=seed)
        units = {unit.unit_id: unit for plan in plans for unit in plan.units}
        counts = Counter(images_in(units.values()))
        assert max(counts.values()) == 1, (seed, counts)
        assert counts.keys() >= {"b.jpg", "d.jpg", "f.jpg"}


def test_a_plan_that_another_came_before_is_made_again(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("b.jpg", "d.jpg"))
    plan = plan_with(corpus, table)
    put(tmp_path / "c", named_files("a.jpg"))
    others = settle(corpus, table, "other")
    mine = settle_plan(
        plan, plan_again=lambda: plan_with(corpus, table), table=table, run_id="mine"
    )
    assert plan.units != others.units
    assert mine.units == others.units


def test_a_plan_whose_number_was_given_without_an_answer_holds(tmp_path):
    """Covers a network that fails after the server has done its work."""

    class Deaf(Storage):
        def write_new(self, uri, data):
            super().write_new(uri, data)
            return super().write_new(uri, data)

    corpus = put(tmp_path / "c", named_files("b.jpg", "d.jpg"))
    table = TableStore(str(tmp_path / "table"), Deaf())
    plan = settle(corpus, table, "mine")
    assert images_in(plan.units) == ["b.jpg", "d.jpg"]
    assert len(list(table.storage.files(table.file("_runs", "order")))) == 1


def test_a_plan_that_never_came_into_force_binds_nobody(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("b.jpg", "d.jpg"))
    storage, _ = crash_at(10**6)
    settle(corpus, TableStore(table.uri, storage), "crashed")
    (number,) = table.storage.files(table.file("_runs", "order"))
    table.storage.delete([number.uri])
    put(tmp_path / "c", named_files("a.jpg"))
    left = number.uri.replace("00000000", ".00000000.0123.tmp")
    table.storage.write(left, b"crashed")
    assert images_in(settle(corpus, table, "run").units) == ["a.jpg", "b.jpg", "d.jpg"]


def test_a_run_that_crashed_after_its_plan_was_written_binds_those_that_follow(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("b.jpg", "d.jpg", "f.jpg", "h.jpg"))
    written = set()
    for operation in range(20):
        storage, _ = crash_at(operation)
        hooked = TableStore(str(tmp_path / f"table-{operation}"), storage)
        plain = TableStore(hooked.uri, STORAGE)
        try:
            first = settle(corpus, hooked, "run-1")
        except Crash:
            first = None
        written.add(first is not None)
        put(tmp_path / "c", named_files(f"a{operation}.jpg"))
        plan = settle(corpus, plain, "run-2")
        assert sorted(images_in(plan.units)) == sorted(whole_corpus(corpus))
        if first is not None:
            assert set(first.units) <= set(plan.units)
    assert written == {True, False}


def test_runs_beside_each_other_do_units_of_earlier_plans_in_orders_of_their_own(tmp_path, table):
    corpus = put(tmp_path / "c", named_files(*(f"{n:02}.jpg" for n in range(30))))
    first = settle(corpus, table, "run-1")
    assert first.units_in_turn("run-1") == list(first.units)
    put(tmp_path / "c", named_files("30.jpg", "31.jpg"))
    second = settle(corpus, table, "run-2")
    orders = [second.units_in_turn(run_id) for run_id in ("run-2", "run-3")]
    assert orders[0] == second.units_in_turn("run-2")
    assert orders[0] != orders[1]
    for order in orders:
        assert {*order[:10]} == {*first.units}
        assert order[10:] == list(second.units[10:])

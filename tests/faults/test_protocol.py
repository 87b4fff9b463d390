"""The commit protocol, in every order of steps, crashes and lost answers that its model knows."""

import os
import typing
from pathlib import Path
from typing import Any

import model
import protocol_state
import protocol_steps
import pytest
from model import explore
from protocol_planning import planned
from protocol_state import Invariant, Mutation, World
from small_runs import SPEC

from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.planning.planner import UnitSettings, plan_corpus
from pipeline.storage import Storage
from pipeline.table.plans import put_in_force, write_plan
from pipeline.table.store import TableStore
from pipeline.table.units import Unit, unit_id

GROWS = {"comes": ("a", 1)}
LOSES = {"goes": ("b", 1)}
REPLACES = {"goes": ("b", 1), "comes": ("b", 2)}
CORPORA = {"grows": GROWS, "loses a source": LOSES, "has one replaced": REPLACES}


@pytest.mark.parametrize("corpus", CORPORA)
def test_two_runs_at_once_keep_all_promises_in_every_state(corpus: str) -> None:
    found = explore(World(writers=2, crashes=1, lost=1, **CORPORA[corpus]))
    assert found.violations == {}
    assert found.states > 10_000


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("corpus", "crashes", "lost", "makings"),
    [
        *(("grows", 1, 1, 1), ("loses a source", 2, 1, 1), ("has one replaced", 2, 1, 1)),
        *(("grows", 0, 0, 2), ("loses a source", 1, 0, 2), ("has one replaced", 1, 0, 2)),
    ],
)
def test_three_runs_at_once_keep_all_promises_in_every_state(
    corpus: str, crashes: int, lost: int, makings: int
) -> None:
    """Two contents in the smaller worlds only: with three runs they multiply states by ten."""
    found = explore(
        World(writers=3, crashes=crashes, lost=lost, makings=makings, **CORPORA[corpus])
    )
    print(f"figure: {found.states:,} states, {len(found.violations)} violations")
    assert found.violations == {}
    assert found.states > 100_000


CAUGHT: dict[Mutation, tuple[dict[str, tuple[str, int]], Invariant]] = {
    "images before segments": (GROWS, "whole"),
    "number not exclusive": (GROWS, "once"),
    "number taken for given": (GROWS, "once"),
    "work before number": (GROWS, "once"),
    "number before plan": (GROWS, "readable"),
    "lost units not looked at again": (LOSES, "once"),
    "lost units not given up": (LOSES, "once"),
    "images written over": (LOSES, "once"),
    "units regrouped": (GROWS, "once"),
    "sources read without etag": (REPLACES, "of its sources"),
    "segments written over": (GROWS, "whole"),
    "images of its own beside the segments of another": (GROWS, "whole"),
    "unfinished segments removed": (GROWS, "whole"),
}
HARMLESS: dict[Mutation, dict[str, tuple[str, int]]] = {
    "done listed before plans": REPLACES,
    "commit of what is there": GROWS,
}
"""The first costs work only: a unit that is taken for undone is done again. Parts are cleared only
where the unit's `segments` are, which any attempt then finishes: the code refuses all the same."""


@pytest.mark.parametrize("mutation", CAUGHT)
def test_a_protocol_with_one_step_done_wrong_is_caught(mutation: Mutation) -> None:
    corpus, invariant = CAUGHT[mutation]
    found = explore(
        World(writers=2, crashes=1, lost=1, mutation=mutation, **corpus), until_violated=True
    )
    assert list(found.violations) == [invariant]
    print(f"{mutation}: {invariant} does not hold after {'; '.join(found.violations[invariant])}")


@pytest.mark.parametrize("mutation", HARMLESS)
def test_a_protocol_with_another_order_of_looks_keeps_the_promises(mutation: Mutation) -> None:
    found = explore(World(writers=2, crashes=1, lost=1, mutation=mutation, **HARMLESS[mutation]))
    assert found.violations == {}


def test_every_mutation_is_tried() -> None:
    assert {*CAUGHT, *HARMLESS} == set(typing.get_args(Mutation))


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_model_plans_what_the_code_plans(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For corpora, plans in force and units done as the model comes to them."""
    cases = _planning_cases(CORPORA[corpus], monkeypatch)
    assert len(cases) > 20
    for number, (sources, order, done) in enumerate(cases):
        expected = planned(sources, order, done=done)
        assert _planned_by_the_code(sources, order, done, folder=tmp_path / str(number)) == expected


def _planning_cases(
    corpus: dict[str, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, Any, Any]]:
    cases = {}

    def remembering(sources: Any, order: Any, *, done: Any, **options: Any) -> Any:
        if sources:
            cases[sources, order, done] = None
        return planned(sources, order, done=done, **options)

    remembering.cache_clear = planned.cache_clear  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for module in (model, protocol_steps):
            patch.setattr(module, "planned", remembering)
        explore(World(writers=2, crashes=0, lost=0, **corpus))
    return sorted(cases, key=lambda case: repr([sorted(each) for each in case]))


def _planned_by_the_code(
    sources: frozenset[protocol_state.Source],
    order: tuple[protocol_state.Plan, ...],
    done: frozenset[protocol_state.Unit],
    *,
    folder: Path,
) -> protocol_state.Plan:
    """The etag of a local file is its size, if the time is always the same."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for name, etag in sources:
        (corpus / f"{name}.jpg").write_bytes(bytes(etag))
        os.utime(corpus / f"{name}.jpg", (0, 0))
    table = TableStore(str(folder / "table"), Storage())
    table.create(SPEC)
    for number, plan in enumerate(order):
        units = [_unit(unit, corpus) for unit in plan]
        write_plan(units, table=table, run_id=f"run-{number}")
        assert put_in_force(table, run_id=f"run-{number}", number=number)
    for unit in done:
        name = f"{_unit(unit, corpus).unit_id}.parquet"
        table.storage.write(table.file("images", name), b"")
    plan = plan_corpus(
        str(corpus),
        table=table,
        spec=SPEC,
        reading=ReadSettings(),
        units=UnitSettings(unit_images=2),
    )
    return tuple(
        tuple((Path(source.uri).stem, source.size) for source in unit.sources)
        for unit in plan.units
    )


def _unit(unit: protocol_state.Unit, corpus: Path) -> Unit:
    sources = [
        Source(
            uri=str(corpus / f"{name}.jpg"),
            name=f"{name}.jpg",
            kind="file",
            etag=f"{etag}-0",
            size=etag,
            num_images=1,
        )
        for name, etag in unit
    ]
    return Unit(unit_id=unit_id(sources, spec=SPEC), sources=tuple(sources), plan_number=0)

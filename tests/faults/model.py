"""The commit protocol as a model, small enough to look at every state of it.

Some runs plan and label a small corpus on one table, each step one operation of storage, while any
of them may crash at any step, answers of PUTs get lost, tasks that were given up write late, and
the corpus grows, or a source goes or is replaced. `explore` looks at every state that can be
reached and says what does not hold there, with the steps that lead to it. Readers need no part of
their own: what they may see between any two steps is the state.

Each step stands for a piece of the code:

| step | code |
|---|---|
| look | `PreviousPlans`: `runs_in_order`, then `read_plan` of each; plans in force never change |
| list done | `PreviousPlans`: `TableStore.done_units` |
| list corpus | `plan_corpus`: `list_corpus`, and `ListingDiff._exists` of sources that it lacks |
| give up | `TableStore.write_tombstone`, where a unit lost a source; its marks tell later runs |
| number | `settle_plan`: `write_plan`, which only who finds the number reads; `put_in_force` |
| compare | `Storage.write_new`: the look at what is there |
| stage | `UnitLoader`, `Stager`: one image read by its etag, its part written |
| join | `commit._joined` |
| segments | `commit_unit`: written once; who comes later takes what is there for its `images` |
| images | `TableStore.finish` |
| clear | `clear_staging` |

A run does its units in any order, one after another; the real one does several at once, with files
of different names. Segmenters need not be deterministic: an attempt's content carries one of some
marks, and `segments` and `images` of a unit must carry the same.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from protocol_planning import planned, to_give_up
from protocol_state import (
    MAKING,
    PUTS,
    Content,
    Files,
    Invariant,
    Plan,
    Source,
    State,
    Unit,
    World,
    done_units,
    given_up_units,
)
from protocol_steps import fresh_writer, next_states


@dataclass(kw_only=True)
class Found:
    """Counts of states and steps, and the violations that were found."""

    states: int = 0
    steps: int = 0
    violations: dict[Invariant, list[str]] = field(default_factory=dict)
    """By invariant, the shortest way to a state in which it does not hold."""


def explore(world: World, *, until_violated: bool = False) -> Found:
    """Looks at every state, those that fewer steps lead to first."""
    found = Found()
    for cached in (_broken_for_readers, _broken_in_the_end, planned):
        cached.cache_clear()
    first = State(
        corpus=frozenset(world.sources),
        has_come=False,
        has_gone=False,
        crashes=world.crashes,
        lost=world.lost,
        order=(),
        segments=frozenset(),
        images=frozenset(),
        writers=(fresh_writer(world),) * world.writers,
    )
    # Hashes in place of states: of ten million, two agree once in three hundred thousand runs.
    seen = {hash(first)}
    waiting: deque[tuple[State, Any]] = deque([(first, None)])
    while waiting:
        state, way = waiting.popleft()
        found.states += 1
        for invariant in _broken(state):
            found.violations.setdefault(invariant, _told(way))
            if until_violated:
                return found
        for step, following in next_states(state, world):
            found.steps += 1
            key = hash(following)
            if key not in seen:
                seen.add(key)
                waiting.append((following, (step, way)))
    return found


def _told(way: Any) -> list[str]:
    steps = []
    while way is not None:
        step, way = way
        steps.append(step)
    return steps[::-1]


# Invariants


def _broken(state: State) -> tuple[Invariant, ...]:
    if None in state.order:
        return ("readable",)
    visible = _broken_for_readers(state.segments, state.images)
    return visible or _broken_in_the_end(
        state.corpus, state.order, state.segments, state.images, state.late
    )


@cache
def _broken_for_readers(segments: Files, images: Files) -> tuple[Invariant, ...]:
    broken: list[Invariant] = []
    rows = [row for _, content in images for row in content if row[0] != MAKING]
    if len(rows) != len(set(rows)):
        broken.append("once")
    beside = dict(segments)
    if any(
        len(_rows(content)) < len(unit) or beside.get(unit) != content
        for unit, content in images
        if content
    ):
        broken.append("whole")
    if any(not set(_rows(content)) <= set(unit) for unit, content in (*segments, *images)):
        broken.append("of its sources")
    return tuple(broken)


def _rows(content: Content) -> Content:
    return tuple(row for row in content if row[0] != MAKING)


@cache
def _broken_in_the_end(
    corpus: frozenset[Source],
    order: tuple[Plan, ...],
    segments: Files,
    images: Files,
    late: tuple[tuple[str, Unit, Content], ...],
) -> tuple[Invariant, ...]:
    """Should all runs crash here and one more be made, which nothing disturbs."""
    files = {"segments": dict(segments), "images": dict(images)}
    done, given_up = done_units(images), given_up_units(images)
    lost = to_give_up(corpus, order, done=done, given_up=given_up)
    files["images"] |= dict.fromkeys(lost, ())
    plan = planned(corpus, order, done=done, given_up=given_up | lost)
    for unit in plan:  # under other names, should some be like units that were given up (`again`)
        there = () if unit in given_up | lost else files["segments"].get(unit, ())
        files["segments"][unit] = files["images"][unit] = there or (*unit, (MAKING, -1))
    rows = {row for content in files["images"].values() for row in content}
    in_the_end = frozenset(files["images"].items())
    if not corpus <= rows or planned(
        corpus, (*order, plan), done=done_units(in_the_end), given_up=given_up_units(in_the_end)
    ):
        return ("all",)
    for name, unit, content in late:  # they may be later than that
        if name == "segments":
            content = files["segments"].setdefault(unit, content)
        files["images"].setdefault(unit, content)
    return _broken_for_readers(*(frozenset(files[name].items()) for name in PUTS))

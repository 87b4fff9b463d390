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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

Source = tuple[str, int]
"""Location and etag; each holds one image."""
Unit = tuple[Source, ...]
Plan = tuple[Unit, ...]
Content = tuple[Source, ...]
"""The images whose rows a file holds; none where `images` says that the unit is given up."""
Files = frozenset[tuple[Unit, Content]]

Mutation = Literal[
    "images before segments",
    "number not exclusive",
    "number taken for given",
    "work before number",
    "number before plan",
    "done listed before plans",
    "lost units not looked at again",
    "lost units not given up",
    "images written over",
    "segments written over",
    "images of its own beside the segments of another",
    "units regrouped",
    "commit of what is there",
    "sources read without etag",
    "unfinished segments removed",
]
Invariant = Literal["once", "whole", "of its sources", "readable", "all"]
"""No image is in two units that are done; `images` of a unit is there with all its rows only beside
a `segments` that holds the same; files hold what their unit's name says; a plan in force can be
read; one more run ends with every image done, should all others end here."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What there is and what may happen, so many times in all."""

    writers: int
    crashes: int
    lost: int
    """Answers of PUTs, and tasks that go on after their driver gave them up."""
    sources: tuple[Source, ...] = (("b", 1), ("d", 1))
    comes: Source | None = None
    goes: Source | None = None
    """May disappear, or be replaced where `comes` has its location."""
    makings: int = 2
    """Attempts at a unit give one of so many contents: 1 for segmenters that are deterministic."""
    mutation: Mutation | None = None


class Writer(NamedTuple):
    """A run: where it stands, and what it remembers."""

    at: str
    earlier: int = 0
    """Number of plans in force when it looked."""
    done: frozenset[Unit] = frozenset()
    given_up: frozenset[Unit] = frozenset()
    listed: frozenset[Source] = frozenset()
    plan: Plan = ()
    is_mine: bool = False
    """The number that it asked for holds its name."""
    todo: frozenset[Unit] = frozenset()
    unit: Unit = ()
    staged: tuple[Source | None, ...] = ()
    """What its parts of the unit hold, in the order of positions; None where one was removed."""
    joined: Content = ()


class State(NamedTuple):
    corpus: frozenset[Source]
    has_come: bool
    has_gone: bool
    crashes: int
    lost: int
    order: tuple[Plan | None, ...]
    """Plans in force; None where a number names a plan that is not written."""
    segments: Files
    images: Files
    writers: tuple[Writer, ...]
    """In no order: they have no names."""
    late: tuple[tuple[str, Unit, Content], ...] = ()
    """Commits that nobody waits for: what they write next, of which unit, with which rows."""


@dataclass(kw_only=True)
class Found:
    """What was looked at, and what did not hold."""

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
        writers=(_fresh(world),) * world.writers,
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
        for step, following in _steps(state, world):
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


# What must hold


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
    rows = [row for _, content in images for row in content if row[0] != _MAKING]
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
    return tuple(row for row in content if row[0] != _MAKING)


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
    done, given_up = _done(images), _given_up(images)
    lost = to_give_up(corpus, order, done=done, given_up=given_up)
    files["images"] |= dict.fromkeys(lost, ())
    plan = planned(corpus, order, done=done, given_up=given_up | lost)
    for unit in plan:  # under other names, should some be like units that were given up (`again`)
        there = () if unit in given_up | lost else files["segments"].get(unit, ())
        files["segments"][unit] = files["images"][unit] = there or (*unit, (_MAKING, -1))
    rows = {row for content in files["images"].values() for row in content}
    in_the_end = frozenset(files["images"].items())
    if not corpus <= rows or planned(
        corpus, (*order, plan), done=_done(in_the_end), given_up=_given_up(in_the_end)
    ):
        return ("all",)
    for name, unit, content in late:  # they may be later than that
        if name == "segments":
            content = files["segments"].setdefault(unit, content)
        files["images"].setdefault(unit, content)
    return _broken_for_readers(*(frozenset(files[name].items()) for name in _PUTS))


# Planning

_UNIT_IMAGES = 2


@cache
def planned(
    corpus: frozenset[Source],
    order: tuple[Plan, ...],
    *,
    done: frozenset[Unit],
    given_up: frozenset[Unit] = frozenset(),
    regroups: bool = False,
) -> Plan:
    """`Comparison`: units of plans in force to go on with, then new ones of what is left."""
    pending, taken = _pending(corpus, order, done=done, given_up=given_up)
    if regroups:
        pending, taken = (), frozenset(source for unit in done for source in unit)
    left = sorted(corpus - taken)
    new = [tuple(left[n : n + _UNIT_IMAGES]) for n in range(0, len(left), _UNIT_IMAGES)]
    return (*pending, *new)


def to_give_up(
    corpus: frozenset[Source],
    order: tuple[Plan, ...],
    *,
    done: frozenset[Unit],
    given_up: frozenset[Unit],
) -> frozenset[Unit]:
    """Units that hold what is there, and are not done, nor to go on with, nor given up before."""
    pending, _ = _pending(corpus, order, done=done, given_up=given_up)
    met = {unit for plan in order for unit in plan if corpus & set(unit)}
    return frozenset(met - done - given_up - set(pending))


def _pending(
    corpus: frozenset[Source],
    order: tuple[Plan, ...],
    *,
    done: frozenset[Unit],
    given_up: frozenset[Unit],
) -> tuple[Plan, frozenset[Source]]:
    """The units to go on with, and all sources that they and those that are done hold."""
    earlier = dict.fromkeys(unit for plan in order for unit in plan if corpus & set(unit))
    taken = {source for unit in earlier if unit in done for source in unit}
    pending: list[Unit] = []
    for unit in earlier:
        if unit not in done | given_up and set(unit) <= corpus - taken:
            pending.append(unit)
            taken.update(unit)
    return tuple(pending), frozenset(taken)


# What may happen

_PUTS = ("segments", "images")
_MAKING = "made by"
_Following = Iterator[tuple[str, State, Writer]]


def _steps(state: State, world: World) -> Iterator[tuple[str, State]]:
    yield from _events(state, world)
    for index, task in enumerate(state.late):
        rest = state._replace(late=state.late[:index] + state.late[index + 1 :])
        name, unit, content = task
        put = _put(rest, name, unit, content, world)
        late = (name, unit, _found(put, name, unit, content, world))
        yield f"late {name}{_name(unit)}", _late(put, late, world)
    for index, writer in enumerate(state.writers):
        if writer in state.writers[:index] or writer.at == "end":
            continue
        others = state.writers[:index] + state.writers[index + 1 :]
        for step, following, after in _STEPS[writer.at](state, writer, world):
            if writer.at == "clear":
                left = tuple(_without_parts(other, writer.unit) for other in others)
                yield step + _name(writer.unit), _with(following, left, after)
            else:
                yield step + _name(writer.unit), _with(following, others, after)
        if state.crashes and writer != _fresh(world):
            step = f"crash before {writer.at}{_name(writer.unit)}"
            crashed = state._replace(crashes=state.crashes - 1)
            yield step, _with(crashed, others, _fresh(world))
            if state.lost and writer.at in _PUTS:
                lives = _lost(crashed, (writer.at, writer.unit, writer.joined))
                yield f"{step}, its task goes on", _with(lives, others, _fresh(world))


def _events(state: State, world: World) -> Iterator[tuple[str, State]]:
    comes, goes = world.comes, world.goes
    replaced = comes is not None and goes is not None and comes[0] == goes[0]
    if comes is not None and not state.has_come and not replaced:
        yield f"{comes[0]} comes", state._replace(corpus=state.corpus | {comes}, has_come=True)
    if goes is None or state.has_gone:
        return
    corpus = state.corpus - {goes} | ({comes} if comes is not None and replaced else set())
    yield f"{goes[0]} goes", state._replace(corpus=corpus, has_gone=True)


def _with(state: State, others: tuple[Writer, ...], writer: Writer) -> State:
    # Sorted by anything that is the same for equal ones.
    return state._replace(writers=tuple(sorted((*others, writer), key=hash)))


def _fresh(world: World) -> Writer:
    first = "list done" if world.mutation == "done listed before plans" else "look"
    return Writer(at=first)


def _name(unit: Unit) -> str:
    return " " + "".join(f"{uri}{etag}" for uri, etag in unit) if unit else ""


# Planning, step by step


def _look(state: State, writer: Writer, world: World) -> _Following:
    if None in state.order:  # it would end with an error
        return
    then = "list corpus" if world.mutation == "done listed before plans" else "list done"
    yield "look", state, writer._replace(at=then, earlier=len(state.order))


def _list_done(state: State, writer: Writer, world: World) -> _Following:
    then = "look" if world.mutation == "done listed before plans" else "list corpus"
    looked = writer._replace(done=_done(state.images), given_up=_given_up(state.images))
    yield "list done", state, looked._replace(at=then)


def _list_corpus(state: State, writer: Writer, world: World) -> _Following:
    yield "list corpus", state, _after_listing(state, writer._replace(listed=state.corpus), world)


def _after_listing(state: State, writer: Writer, world: World) -> Writer:
    """Gives up one unit after the other, then plans."""
    if _lost_units(state, writer):
        if world.mutation == "lost units not given up":
            return writer._replace(at="look again")
        if world.mutation != "lost units not looked at again":
            return writer._replace(at="give up")
    return _with_plan(state, writer, world)


def _lost_units(state: State, writer: Writer) -> frozenset[Unit]:
    order: tuple[Plan, ...] = state.order[: writer.earlier]  # type: ignore[assignment]
    return to_give_up(writer.listed, order, done=writer.done, given_up=writer.given_up)


def _give_up(state: State, writer: Writer, world: World) -> _Following:
    """Takes the unit's place, or finds it taken."""
    unit = min(_lost_units(state, writer))
    images = {unit: ()} | dict(state.images)
    taken = state._replace(images=frozenset(images.items()))
    found = writer._replace(
        **{"done": writer.done | {unit}} if images[unit] else {"given_up": writer.given_up | {unit}}
    )
    yield f"give up{_name(unit)}", taken, _after_listing(taken, found, world)
    if state.lost:
        yield f"give up{_name(unit)}, answer lost", taken._replace(lost=state.lost - 1), writer


def _look_again(state: State, writer: Writer, world: World) -> _Following:
    """Of a mutation only: whether it is done is looked at once more, and nothing more."""
    done = _done(state.images)
    found = writer._replace(done=done, given_up=_lost_units(state, writer) - done)
    yield "look again", state, _with_plan(state, found, world)


def _with_plan(state: State, writer: Writer, world: World) -> Writer:
    plan = planned(
        writer.listed,
        state.order[: writer.earlier],  # type: ignore[arg-type]
        done=writer.done,
        given_up=writer.given_up,
        regroups=world.mutation == "units regrouped",
    )
    if not plan:
        return Writer(at="end")
    number = Writer(at="number", earlier=writer.earlier, plan=plan)
    if world.mutation == "unfinished segments removed":
        return number._replace(at="remove", done=writer.done)
    if world.mutation == "work before number":
        return number._replace(at="choose", todo=frozenset(plan))
    return number


def _remove(state: State, writer: Writer, world: World) -> _Following:
    """Of a mutation only: what crashed runs may have left is removed."""
    left = frozenset(file for file in state.segments if file[0] in writer.done)
    after = writer._replace(at="number", done=frozenset())
    yield "remove", state._replace(segments=left), after


def _number(state: State, writer: Writer, world: World) -> _Following:
    plan = None if world.mutation == "number before plan" else writer.plan
    is_free = len(state.order) == writer.earlier
    if not is_free and world.mutation != "number not exclusive":
        yield "number", state, writer._replace(at="compare")
        return
    order = (*state.order[: writer.earlier], plan, *state.order[writer.earlier + 1 :])
    given, mine = state._replace(order=order), writer._replace(is_mine=True)
    yield "number", given, mine._replace(at="compare")
    if state.lost:
        yield "number, answer lost", given._replace(lost=state.lost - 1), mine


def _compare(state: State, writer: Writer, world: World) -> _Following:
    if world.mutation == "number before plan" and writer.is_mine:
        order = list(state.order)
        order[writer.earlier] = writer.plan
        state = state._replace(order=tuple(order))
    if not writer.is_mine and world.mutation != "number taken for given":
        yield "compare, taken", state, _fresh(world)
    elif world.mutation == "work before number":
        yield "compare", state, Writer(at="end")
    else:
        yield "compare", state, Writer(at="choose", todo=frozenset(writer.plan))


# The units, step by step


def _choose(state: State, writer: Writer, world: World) -> _Following:
    for unit in writer.todo:
        begun = writer._replace(at="stage", unit=unit, todo=writer.todo - {unit})
        yield f"begin{_name(unit)}", state, begun


def _stage(state: State, writer: Writer, world: World) -> _Following:
    uri, etag = writer.unit[len(writer.staged)]
    there = [source for source in state.corpus if source[0] == uri]
    if not there or (there[0][1] != etag and world.mutation != "sources read without etag"):
        yield "source changed", state, _next(writer)  # a fault: the unit stays undone
        return
    staged = (*writer.staged, there[0])
    then = "join" if len(staged) == len(writer.unit) else "stage"
    yield "stage", state, writer._replace(at=then, staged=staged)


def _join(state: State, writer: Writer, world: World) -> _Following:
    rows = tuple(row for row in writer.staged if row is not None)
    if len(rows) < len(writer.unit) and world.mutation != "commit of what is there":
        yield "join, a part is gone", state, writer._replace(at="stage", staged=())
        return
    first = _PUTS[1] if world.mutation == "images before segments" else _PUTS[0]
    for making in range(world.makings):
        content = (*rows, (_MAKING, making))
        yield "join", state, writer._replace(at=first, joined=content)


def _write(state: State, writer: Writer, world: World) -> _Following:
    name, unit, content = writer.at, writer.unit, writer.joined
    then = _then(name, world)
    put = _put(state, name, unit, content, world)
    found = _found(put, name, unit, content, world)
    after = writer._replace(at=then, joined=found if then in _PUTS else ())
    is_given_up = name == "images" and not dict(put.images)[unit]
    yield name, put, _next(writer) if is_given_up else after
    if state.lost:  # it comes later, or has come: the writer does not know, and writes again
        yield f"{name}, answer lost", _lost(state, (name, unit, content)), writer


def _then(name: str, world: World) -> str:
    is_last = (name == "segments") == (world.mutation == "images before segments")
    return "clear" if is_last else _PUTS[1 - _PUTS.index(name)]


def _put(state: State, name: str, unit: Unit, content: Content, world: World) -> State:
    files = dict(getattr(state, name))
    if world.mutation == f"{name} written over":
        files[unit] = content
    else:
        files.setdefault(unit, content)
    return state._replace(**{name: frozenset(files.items())})


def _found(state: State, name: str, unit: Unit, content: Content, world: World) -> Content:
    """The content of `segments` after a PUT of it, which goes into `images` too."""
    keeps_own = world.mutation == "images of its own beside the segments of another"
    if name == "images" or keeps_own:
        return content
    return dict(state.segments)[unit]


def _lost(state: State, task: tuple[str, Unit, Content]) -> State:
    return state._replace(lost=state.lost - 1, late=tuple(sorted((*state.late, task))))


def _late(state: State, task: tuple[str, Unit, Content], world: World) -> State:
    """The task goes on to its second file."""
    then = _then(task[0], world)
    if then == "clear":
        return state
    return state._replace(late=tuple(sorted((*state.late, (then, *task[1:])))))


def _clear(state: State, writer: Writer, world: World) -> _Following:
    yield "clear", state, _next(writer)


def _without_parts(writer: Writer, unit: Unit) -> Writer:
    """The parts of a unit are removed, whoever staged them."""
    return writer._replace(staged=(None,) * len(writer.staged)) if writer.unit == unit else writer


def _next(writer: Writer) -> Writer:
    free = writer._replace(unit=(), staged=(), joined=())
    if writer.todo:
        return free._replace(at="choose")
    return free._replace(at="number") if writer.plan else Writer(at="end")


def _done(images: Files) -> frozenset[Unit]:
    return frozenset(unit for unit, content in images if content)


def _given_up(images: Files) -> frozenset[Unit]:
    return frozenset(unit for unit, content in images if not content)


_STEPS: dict[str, Callable[[State, Writer, World], _Following]] = {
    "look": _look,
    "list done": _list_done,
    "list corpus": _list_corpus,
    "give up": _give_up,
    "look again": _look_again,
    "remove": _remove,
    "number": _number,
    "compare": _compare,
    "choose": _choose,
    "stage": _stage,
    "join": _join,
    "segments": _write,
    "images": _write,
    "clear": _clear,
}

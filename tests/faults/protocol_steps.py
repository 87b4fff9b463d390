"""The steps of the commit protocol's model: what each run may do next, and what may go wrong.

`model.py` says which piece of the code each step stands for.
"""

from collections.abc import Callable, Iterator
from functools import cache

from protocol_planning import planned, to_give_up
from protocol_state import (
    MAKING,
    PUTS,
    Content,
    Plan,
    State,
    Unit,
    World,
    Writer,
    done_units,
    given_up_units,
)

_Following = Iterator[tuple[str, State, Writer]]


def next_states(state: State, world: World) -> Iterator[tuple[str, State]]:
    yield from _events(state, world)
    for index, task in enumerate(state.late):
        rest = state._replace(late=state.late[:index] + state.late[index + 1 :])
        name, unit, content = task
        put = _put(rest, name, unit, content, world)
        late = (name, unit, _found(put, name, unit, content, world))
        yield f"late {name}{_name(unit)}", _late(put, late, world)
    fresh = fresh_writer(world)
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
        if state.crashes and writer != fresh:
            step = f"crash before {writer.at}{_name(writer.unit)}"
            crashed = state._replace(crashes=state.crashes - 1)
            yield step, _with(crashed, others, fresh)
            if state.lost and writer.at in PUTS:
                lives = _lost(crashed, (writer.at, writer.unit, writer.joined))
                yield f"{step}, its task goes on", _with(lives, others, fresh)


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


@cache
def fresh_writer(world: World) -> Writer:
    first = "list done" if world.mutation == "done listed before plans" else "look"
    return Writer(at=first)


@cache
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
    looked = writer._replace(done=done_units(state.images), given_up=given_up_units(state.images))
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
    """Looks once more whether units are done, and does no more; a mutation only."""
    done = done_units(state.images)
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
    """Removes what crashed runs may have left; a mutation only."""
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
        yield "compare, taken", state, fresh_writer(world)
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
    first = PUTS[1] if world.mutation == "images before segments" else PUTS[0]
    for making in range(world.makings):
        content = (*rows, (MAKING, making))
        yield "join", state, writer._replace(at=first, joined=content)


def _write(state: State, writer: Writer, world: World) -> _Following:
    name, unit, content = writer.at, writer.unit, writer.joined
    then = _then(name, world)
    put = _put(state, name, unit, content, world)
    found = _found(put, name, unit, content, world)
    after = writer._replace(at=then, joined=found if then in PUTS else ())
    is_given_up = name == "images" and not dict(put.images)[unit]
    yield name, put, _next(writer) if is_given_up else after
    if state.lost:  # it comes later, or has come: the writer does not know, and writes again
        yield f"{name}, answer lost", _lost(state, (name, unit, content)), writer


def _then(name: str, world: World) -> str:
    is_last = (name == "segments") == (world.mutation == "images before segments")
    return "clear" if is_last else PUTS[1 - PUTS.index(name)]


def _put(state: State, name: str, unit: Unit, content: Content, world: World) -> State:
    files = dict(getattr(state, name))
    if unit in files and world.mutation != f"{name} written over":
        return state
    files[unit] = content
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

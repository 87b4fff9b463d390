"""Planning in the commit protocol's model: which units a run goes on with and which are new."""

from functools import cache

from protocol_state import Plan, Source, Unit

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
    """Plans as `ListingDiff` does: first units to go on with, then new ones of what is left."""
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

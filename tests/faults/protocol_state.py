"""The state of the commit protocol's model: the corpus, the table and the runs on it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    """The corpus, the runs, and how often each event may happen."""

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


PUTS = ("segments", "images")
MAKING = "made by"
"""In place of a location: the mark of the attempt that made a file."""


def done_units(images: Files) -> frozenset[Unit]:
    return frozenset(unit for unit, content in images if content)


def given_up_units(images: Files) -> frozenset[Unit]:
    return frozenset(unit for unit, content in images if not content)

"""Agreement: many writers settle on one value, on a store that can only write, read and list.

For stores that ignore conditional PUT. This is Paxos over registers (Gafni and Lamport, "Disk
Paxos", 2003, with one disk). A ballot belongs to one writer, who joins it, looks who else is there,
votes, and looks again; whoever sees a higher ballot gives way to it. No name is written with two
contents, so that a request which the network held back and lets through late does no harm.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.storage.faults import StorageFault

_ROUNDS = 100
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 2.0


@dataclass(frozen=True, order=True)
class Ballot:
    """Ballots are in order; each has one writer."""

    number: int
    writer: str

    @property
    def joined(self) -> str:
        return f"{self.number:08}-{self.writer}-joined"

    @property
    def voted(self) -> str:
        return f"{self.number:08}-{self.writer}-voted"

    @classmethod
    def of(cls, name: str) -> "Ballot":
        number, writer, _ = name.split("-")
        return cls(int(number), writer)


def agree(
    value: bytes,
    *,
    write: Callable[[str, bytes], None],
    read: Callable[[str], bytes],
    names: Callable[[], Iterable[str]],
) -> bytes:
    """The value that all who ever ask get: that of one of them.

    Args:
        write, read, names: of a place that is for this question alone, and cleared only when the
            question is put anew; what was written before `names` is called is among them.

    Raises:
        StorageFault: others came between in every round.
    """
    writer, highest = f"w{uuid.uuid4().hex}", 0
    for attempt in range(_ROUNDS):
        ballot = Ballot(highest + 1, writer)
        write(ballot.joined, b"")
        there = list(names())
        if not _is_above(there, ballot):
            votes = [name for name in there if name.endswith("-voted")]
            choice = read(max(votes, key=Ballot.of)) if votes else value
            write(ballot.voted, choice)
            there = list(names())
            # Whoever joins a higher ballot from here on sees this vote, and votes the same.
            if not _is_above(there, ballot):
                return choice
        highest = max((Ballot.of(name).number for name in there), default=highest)
        longest = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
        time.sleep(random.uniform(0, longest))
    raise StorageFault(f"others wrote at the same time in all of {_ROUNDS} rounds")


def _is_above(names: Iterable[str], ballot: Ballot) -> bool:
    return any(Ballot.of(name) > ballot for name in names)

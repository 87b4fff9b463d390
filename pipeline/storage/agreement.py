"""Agreement: many writers settle on one value, on a store that can only write, read and list.

For stores that ignore conditional PUT. This is Paxos over registers (Gafni and Lamport, "Disk
Paxos", 2003, with one disk). A ballot belongs to one writer, who writes that it joins, lists the
other ballots, writes its vote, and lists again; a writer that sees a higher ballot gives up its
own. No name is written with two contents, so a request that the network delivers late does no harm.
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
    """An attempt of one writer to have a value accepted; ballots are ordered."""

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
    """Returns the value of one of the callers, the same one to all of them.

    Args:
        write, read, names: access to a folder that serves this question alone and is cleared only
            before the question is asked anew; `names` lists all that was written before the call.

    Raises:
        StorageFault: another writer had a higher ballot in every round.
    """
    writer, highest = f"w{uuid.uuid4().hex}", 0
    for attempt in range(_ROUNDS):
        ballot = Ballot(highest + 1, writer)
        write(ballot.joined, b"")
        present = list(names())
        if not _is_above(present, ballot):
            votes = [name for name in present if name.endswith("-voted")]
            choice = read(max(votes, key=Ballot.of)) if votes else value
            write(ballot.voted, choice)
            present = list(names())
            # A writer that joins a higher ballot from now on sees this vote, and votes the same.
            if not _is_above(present, ballot):
                return choice
        highest = max((Ballot.of(name).number for name in present), default=highest)
        longest = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
        time.sleep(random.uniform(0, longest))
    raise StorageFault(f"others wrote at the same time in all of {_ROUNDS} rounds")


def _is_above(names: Iterable[str], ballot: Ballot) -> bool:
    return any(Ballot.of(name) > ballot for name in names)

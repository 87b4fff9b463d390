"""Lookups: what the storage says of the files that a manifest names.

`corpus.py` makes sources of them. A file that the storage refuses, or cannot tell anything of, is
neither there nor absent: it is left for another run, and costs no other file its turn.
"""

from collections import Counter

from pipeline.storage import File, Storage, StorageFault
from pipeline.storage.faults import FaultKind, fault_kind
from pipeline.storage.places import protocol, split_url

_MOST_FAULTS_IN_A_ROW = 100


class Lookups:
    """Asks for one file after the other, from many threads; for those of one listing."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._faults_in_a_row: Counter[str] = Counter()
        """By host."""
        self._last: dict[str, StorageFault] = {}

    def look(self, uri: str) -> File | StorageFault:
        """The file, without an etag where there is none; the fault where nobody can tell.

        A host that failed often in a row is not asked for the rest: each question takes all the
        patience that the settings have.
        """
        host = split_url(uri)[0] if "://" in uri else protocol(uri)
        if self._faults_in_a_row[host] >= _MOST_FAULTS_IN_A_ROW:
            return StorageFault(
                f"look at {uri}: not tried, after {_MOST_FAULTS_IN_A_ROW} faults in a row of "
                f"{host}, the last: {self._last[host]}"
            )
        try:
            file = self._storage.file(uri)
        except StorageFault as fault:
            # What is refused is so at once, and says nothing of the next.
            if fault.__cause__ is None or fault_kind(fault.__cause__) is not FaultKind.DENIED:
                self._faults_in_a_row[host] += 1
                self._last[host] = fault
            return fault
        self._faults_in_a_row[host] = 0
        if file is not None and not file.may_be_read:
            return refusal(file)
        return file or File(uri=uri, size=0, etag="")


def refusal(file: File) -> StorageFault:
    """The fault that reading the file would be."""
    return StorageFault(f"look at {file.uri}: this user may not read it; allow it, or remove it")

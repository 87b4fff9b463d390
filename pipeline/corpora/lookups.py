"""Asks the storage about the files that a manifest names.

`corpus.py` makes sources of them. A file that the storage refuses, or fails to answer about, counts
neither as present nor as absent: it is left for another run, and does not stop the others.
"""

from collections import Counter

from pipeline.storage import File, Storage, StorageFault
from pipeline.storage.faults import FaultKind, fault_kind
from pipeline.storage.uris import protocol, split_url

_MOST_FAULTS_IN_A_ROW = 100


class Lookups:
    """Looks up the files of one listing, from many threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._faults_in_a_row: Counter[str] = Counter()
        """Counts by host."""
        self._last: dict[str, StorageFault] = {}

    def look_up(self, uri: str) -> File | StorageFault:
        """Returns the file, without an etag where it is absent, or the fault of asking.

        A host that failed many times in a row is not asked again: each request would take all the
        retries that the settings allow.
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
            # A refusal comes without retries, and says nothing about the next file.
            if fault.__cause__ is None or fault_kind(fault.__cause__) is not FaultKind.DENIED:
                self._faults_in_a_row[host] += 1
                self._last[host] = fault
            return fault
        self._faults_in_a_row[host] = 0
        if file is not None and not file.may_be_read:
            return refusal(file)
        return file or File(uri=uri, size=0, etag="")


def refusal(file: File) -> StorageFault:
    """Returns the fault that reading the file would raise."""
    return StorageFault(f"look at {file.uri}: this user may not read it; allow it, or remove it")

"""Finds files of a corpus that may still be written and are left for the next run."""

from pipeline.storage import File, Storage, join


class Settling:
    """Decides for each file whether to leave it; looks up each folder's marker once."""

    def __init__(
        self, corpus: str, *, storage: Storage, minutes: float, success_marker: str | None
    ) -> None:
        self._storage, self._marker = storage, success_marker
        # Uses the clock that stamps the files, so that no other clock need be right.
        self._latest = storage.now(storage.absolute(corpus)) - 60 * minutes if minutes else None
        self._is_complete: dict[str, bool] = {}

    def __call__(self, file: File) -> bool:
        is_young = self._latest is not None and file.modified > self._latest
        return is_young or not self._has_marker(file.uri.rsplit("/", 1)[0])

    def _has_marker(self, folder: str) -> bool:
        if self._marker is None:
            return True
        if folder not in self._is_complete:
            marker = self._storage.file(join(folder, self._marker))
            self._is_complete[folder] = marker is not None
        return self._is_complete[folder]

"""Separates the files of a corpus from those that other programs leave beside them.

Names are hidden that begin with a dot, and the few that writers of data really use; an underscore
alone says nothing (`_DSC0001.JPG`). The files of a segment table are left out too. Those of all
these that could hold images are counted.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from pipeline.runtime.skips import HIDDEN, OF_A_TABLE
from pipeline.storage import File, Storage, below, join

_HIDDEN_FOLDER = re.compile(
    r"\.|(__MACOSX|_temporary|_delta_log|_delta_index|_change_data|_spark_metadata"
    r"|_symlink_format_manifest|lost\+found|System Volume Information|\$RECYCLE\.BIN)$"
)
_MARKER = re.compile(r"_(SUCCESS|metadata|common_metadata|table\.json)$|_(committed|started)_")
# Folders of a table other than `images` and `segments`, which hold Parquet files.
_FOLDERS_OF_TABLES = frozenset(["_runs", "_staging", "_compacted", "_given_up", "_reviews"])
_TABLES = ("images", "segments")


class VisibleFiles:
    """Finds the files of a corpus by their names, and by the tables among them."""

    def __init__(self, *, root: str, storage: Storage, kind_of: Callable[[str], object]) -> None:
        self._root, self._storage, self._kind_of = root, storage, kind_of
        self._is_table: dict[str, bool] = {}

    def among(self, files: Iterable[File], *, count_skipped: Callable[..., None]) -> Iterator[File]:
        """Yields the visible files; calls `count_skipped` for others that could hold images."""
        last = None
        is_plain = False
        for file in files:
            folder, _, name = file.uri.rpartition("/")
            # Most of millions of files have a plain name and the same folder as the one before.
            if folder != last:
                last, is_plain = folder, self._is_plain(file.uri)
            if is_plain and name[:1] not in "._":
                yield file
                continue
            reason = self._reason(file.uri)
            if reason is None:
                yield file
            elif self._kind_of(file.uri):
                count_skipped(file.uri, reason=reason)

    def __contains__(self, uri: str) -> bool:
        name = below(uri, root=self._root)
        return name not in ("", uri) and self._reason(uri) is None

    def _is_plain(self, uri: str) -> bool:
        """True if no folder between the root and the file can hide it or be a table."""
        *folders, _ = below(uri, root=self._root).split("/")
        return not any(
            folder[:1] == "_" or folder in _TABLES or _HIDDEN_FOLDER.match(folder)
            for folder in folders
        )

    def _reason(self, uri: str) -> str | None:
        """Returns why a file is not visible, None where it is."""
        *folders, name = below(uri, root=self._root).split("/")
        if name.startswith(".") or any(_HIDDEN_FOLDER.match(folder) for folder in folders):
            return HIDDEN
        if _MARKER.match(name):
            return HIDDEN
        for depth, folder in enumerate(folders):
            is_rows = folder in _TABLES and name.endswith(".parquet")
            if (is_rows or folder in _FOLDERS_OF_TABLES) and self._has_table(folders[:depth]):
                return OF_A_TABLE
        return None

    def _has_table(self, folders: list[str]) -> bool:
        location = join(self._root, *folders, "_table.json")
        if location not in self._is_table:
            self._is_table[location] = self._storage.file(location) is not None
        return self._is_table[location]

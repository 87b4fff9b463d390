"""Visible files: what of a prefix is the corpus, beside what other programs leave there.

Hidden are names that begin with a dot, and the few that writers of data really use; an underscore
alone says nothing (`_DSC0001.JPG`). The files of a segment table are left out too. Of all these,
what could hold images is counted.
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
# Of a table, beside `images` and `segments`, which hold Parquet files.
_FOLDERS_OF_TABLES = frozenset(["_runs", "_staging", "_compacted", "_given_up", "_reviews"])
_TABLES = ("images", "segments")


class VisibleFiles:
    """Tells by names, and by looking for tables, which files of a prefix are its corpus."""

    def __init__(self, *, root: str, storage: Storage, of_a_kind: Callable[[str], object]) -> None:
        self._root, self._storage, self._of_a_kind = root, storage, of_a_kind
        self._is_table: dict[str, bool] = {}

    def among(self, files: Iterable[File], *, count_skipped: Callable[..., None]) -> Iterator[File]:
        """Yields the visible files; calls `count_skipped` for others that could hold images."""
        last = None
        is_plain = False
        for file in files:
            folder, _, name = file.uri.rpartition("/")
            # Of millions of files most have the folder of the one before and a plain name.
            if folder != last:
                last, is_plain = folder, self._is_plain(file.uri)
            if is_plain and name[:1] not in "._":
                yield file
                continue
            reason = self._reason(file.uri)
            if reason is None:
                yield file
            elif self._of_a_kind(file.uri):
                count_skipped(file.uri, reason=reason)

    def __contains__(self, uri: str) -> bool:
        name = below(uri, root=self._root)
        return name not in ("", uri) and self._reason(uri) is None

    def _is_plain(self, uri: str) -> bool:
        """Whether no folder below the root needs a second look."""
        *folders, _ = below(uri, root=self._root).split("/")
        return not any(
            folder[:1] == "_" or folder in _TABLES or _HIDDEN_FOLDER.match(folder)
            for folder in folders
        )

    def _reason(self, uri: str) -> str | None:
        """Why a file is not visible, None where it is."""
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
        place = join(self._root, *folders, "_table.json")
        if place not in self._is_table:
            self._is_table[place] = self._storage.file(place) is not None
        return self._is_table[place]

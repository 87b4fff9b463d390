"""Finds the files of a folder that a JSON names, where the names are unambiguous.

JSONs come from other machines: their names are paths there (`C:\\data\\1.jpg`,
`/home/bob/1.jpg`) or URLs, differ in case, in how accents are stored, or have folders more or
fewer than here. Such a name is matched by the end of its path, if it fits one file and no other
name fits the same file.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote, urlsplit

from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.runtime.wording import count
from pipeline.storage import File, Storage, join

_NAMES_TRIED = 8
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class NamedFiles:
    """The files of a folder, from one listing."""

    uri: str
    files: Mapping[str, File]
    """By path below the folder."""
    option: str
    """The setting that names the folder."""
    _taken: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The name in the JSON of each file that was found, by the file's path."""

    @classmethod
    def of_photographs(
        cls, settings: DatasetSettings, *, names: Sequence[str], uri: str, storage: Storage
    ) -> "NamedFiles":
        """Finds the photographs that a JSON names in the folder of the settings, or where COCO,
        CVAT, Roboflow and FiftyOne keep them."""
        folder, _, name = uri.rpartition("/")
        split = name.removesuffix(".json").rpartition("_")[2]  # instances_val2017 -> val2017
        usual = [
            join(base, each)
            for base in (folder, folder.rpartition("/")[0])
            for each in (split, f"images/{split}", "images", "data", "input_images")
        ]
        folders = [settings.images] if settings.images else [*usual, folder]
        return cls.found(folders, names=names, option="images", storage=storage)

    @classmethod
    def of_maps(
        cls, settings: DatasetSettings, *, names: Sequence[str], uri: str, storage: Storage
    ) -> "NamedFiles":
        """Finds the PNGs that a panoptic JSON names in the folder of the settings, or in the one
        with the JSON's name beside it."""
        folders = [settings.maps] if settings.maps else [uri.removesuffix(".json")]
        return cls.found(folders, names=names, option="maps", storage=storage)

    @classmethod
    def found(
        cls, folders: Sequence[str], *, names: Sequence[str], option: str, storage: Storage
    ) -> "NamedFiles":
        """Returns the first folder that holds a file of some of the names, to the letter; without
        such a folder the first that holds one in another spelling.

        Raises:
            LabelError: none does.
        """
        step = max(1, len(names) // _NAMES_TRIED)
        tried = [*dict.fromkeys(names[::step])][:_NAMES_TRIED]
        absolute = [*dict.fromkeys(map(storage.absolute, folders))]
        for name in tried:
            for folder in absolute:
                if _is_plain(name) and storage.file(join(folder, name)) is not None:
                    return cls(uri=folder, files=_listed(folder, storage=storage), option=option)
        for folder in absolute:
            here = cls(uri=folder, files=_listed(folder, storage=storage), option=option)
            if any(here.candidates(name) for name in names):
                return here
        others = f" or the {len(folders) - 1} other usual places" if len(folders) > 1 else ""
        raise LabelError(
            f"there is no {names[0]} in {folders[0]}{others}, nor another of "
            f"{count(len(names), 'name')}; name the folder by --{option}"
        )

    def file(self, name: str) -> File:
        """Returns the file of a name.

        Raises:
            LabelError: there is none, or more than one that could be it.
        """
        if (exact := self.files.get(name)) is not None:
            self._take(name, name)
            return exact
        candidates = self.candidates(name)
        if len(candidates) > 1:
            shown = ", ".join(candidates[:_SHOWN])
            raise LabelError(
                f"image {name} is named in the JSON and could be any of {len(candidates)} files in "
                f"{self.uri}: {shown}; name the right folder by --{self.option}"
            )
        if not candidates:
            raise LabelError(
                f"image {name} is named in the JSON, and there is no {join(self.uri, name)}, nor a "
                f"file whose path ends like it; add it, or see --{self.option}"
            )
        self._take(candidates[0], name)
        return self.files[candidates[0]]

    def candidates(self, name: str) -> list[str]:
        """Returns the paths that a name may mean, the first of these that there are: the same path
        in another spelling, paths that end with it, the longest path that it ends with.

        Case counts first, and is ignored where nothing is found.
        """
        for index in self._indices:
            parts = index.parts(name)
            wanted = "/".join(parts)
            longer = index.by_end.get("/".join(parts[-2:]), ())
            ends = ("/".join(parts[first:]) for first in range(1, len(parts)))
            found = (
                index.by_path.get(wanted)
                or [path for path in longer if index.path(path).endswith(f"/{wanted}")]
                or next((index.by_path[end] for end in ends if end in index.by_path), [])
            )
            if found:
                return found
        return []

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns the note on files that were found under other names, if there are any."""
        others = [(name, path) for path, name in self._taken.items() if name != path]
        if not others:
            return ()
        name, path = others[0]
        were = "was" if len(others) == 1 else "were"
        return (
            f"{len(others):,} of {count(len(self._taken), 'file')} {were} found by the end of the "
            f"name or in another spelling: {name} is {join(self.uri, path)}",
        )

    def _take(self, path: str, name: str) -> None:
        first = self._taken.setdefault(path, name)
        if first != name:
            raise LabelError(
                f"images {first} and {name} are named in the JSON, and both would be "
                f"{join(self.uri, path)}; add the other, or see --{self.option}"
            )

    @cached_property
    def _indices(self) -> tuple["_Index", ...]:
        return _Index.of(self.files, fold=False), _Index.of(self.files, fold=True)


@dataclass(frozen=True, kw_only=True)
class _Index:
    """Paths by their spelling without the differences between machines."""

    fold: bool
    """True to ignore case."""
    by_path: Mapping[str, list[str]]
    by_end: Mapping[str, list[str]]
    """Paths by their last part, and by their last two."""

    @classmethod
    def of(cls, paths: Iterable[str], *, fold: bool) -> "_Index":
        index = cls(fold=fold, by_path=defaultdict(list), by_end=defaultdict(list))
        for path in paths:
            parts = index.parts(path)
            index.by_path["/".join(parts)].append(path)
            for end in {"/".join(parts[-1:]), "/".join(parts[-2:])}:
                index.by_end[end].append(path)
        return index

    def path(self, name: str) -> str:
        return "/".join(self.parts(name))

    def parts(self, name: str) -> list[str]:
        """Splits a path of any machine, or a URL, into its folders and its file."""
        if "://" in name:
            name = unquote(urlsplit(name).path)
        name = unicodedata.normalize("NFC", name.replace("\\", "/"))
        parts = (name.casefold() if self.fold else name).split("/")
        if len(parts[0]) == 2 and parts[0][1] == ":":  # C:
            parts = parts[1:]
        return [part for part in parts if part not in ("", ".")]


def _listed(folder: str, *, storage: Storage) -> dict[str, File]:
    return {file.uri.removeprefix(f"{folder}/"): file for file in storage.files(folder)}


def _is_plain(name: str) -> bool:
    """True if a name is a path below a folder, and no URL or path out of it."""
    is_path = "://" not in name and "\0" not in name
    return is_path and not name.startswith("/") and ".." not in name.split("/")

"""A folder of files that a JSON names: each found by its name, where there is no doubt.

JSONs come from other machines: names are paths of these (`C:\\data\\1.jpg`, `/home/bob/1.jpg`),
URLs, in another case, with accents stored otherwise, or with folders more or fewer than here. Such
a name is of the file whose path ends as it does, if there is one such file and no second name for
it.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote, urlsplit

from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.storage import File, Storage, join

_NAMES_TRIED = 8
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class NamedFiles:
    """The files of a folder, by one listing."""

    uri: str
    files: Mapping[str, File]
    """By path below the folder."""
    option: str
    """The setting that names the folder."""
    _taken: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """By path of a file that was found by another name: that name."""

    @classmethod
    def of_photographs(
        cls, settings: DatasetSettings, *, names: Sequence[str], uri: str, storage: Storage
    ) -> "NamedFiles":
        """The photographs that a JSON names, in the folder that is set, or where COCO, CVAT,
        Roboflow and FiftyOne keep them."""
        folder, _, name = uri.rpartition("/")
        split = name.removesuffix(".json").rpartition("_")[2]  # instances_val2017 -> val2017
        usual = [
            join(base, each)
            for base in (folder, folder.rpartition("/")[0])
            for each in (split, f"images/{split}", "images", "data", "input_images")
        ]
        places = [settings.images] if settings.images else [*usual, folder]
        return cls.found(places, names=names, option="images", storage=storage)

    @classmethod
    def of_maps(
        cls, settings: DatasetSettings, *, names: Sequence[str], uri: str, storage: Storage
    ) -> "NamedFiles":
        """The PNGs that a panoptic JSON names, in the folder that is set, or in that with the
        JSON's name beside it."""
        places = [settings.maps] if settings.maps else [uri.removesuffix(".json")]
        return cls.found(places, names=names, option="maps", storage=storage)

    @classmethod
    def found(
        cls, places: Sequence[str], *, names: Sequence[str], option: str, storage: Storage
    ) -> "NamedFiles":
        """The first of the places that holds a file of some of the names, to the letter; else the
        first that holds one in another writing.

        Raises:
            LabelError: none does.
        """
        step = max(1, len(names) // _NAMES_TRIED)
        tried = [*dict.fromkeys(names[::step])][:_NAMES_TRIED]
        absolute = [*dict.fromkeys(map(storage.absolute, places))]
        for name in tried:
            for place in absolute:
                if _is_plain(name) and storage.file(join(place, name)) is not None:
                    return cls(uri=place, files=_listed(place, storage=storage), option=option)
        for place in absolute:
            here = cls(uri=place, files=_listed(place, storage=storage), option=option)
            if any(here.candidates(name) for name in names):
                return here
        others = f" or the {len(places) - 1} other usual places" if len(places) > 1 else ""
        raise LabelError(
            f"there is no {names[0]} in {places[0]}{others}, nor another of {len(names)} names; "
            f"name the folder by --{option}"
        )

    def file(self, name: str) -> File:
        """The file of a name.

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
                f"image {name} is named in the JSON, and neither {join(self.uri, name)} is there "
                f"nor a file that ends as it does; add it, or see --{self.option}"
            )
        self._take(candidates[0], name)
        return self.files[candidates[0]]

    def candidates(self, name: str) -> list[str]:
        """The paths that a name may be of: the same in another writing, else those that end as it
        does, else the longest that is the end of it. Case counts where it tells."""
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
        """How many files were found under other names, for people."""
        others = [(name, path) for path, name in self._taken.items() if name != path]
        if not others:
            return ()
        name, path = others[0]
        return (
            f"{len(others):,} of {len(self._taken):,} files are known by the end of their names or "
            f"in another writing: {name} is {join(self.uri, path)}",
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
    """Paths by how they are written at any machine."""

    fold: bool
    """Whether case does not count."""
    by_path: Mapping[str, list[str]]
    by_end: Mapping[str, list[str]]
    """By the last part, and by the last two."""

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
        """The folders and the file of a path as any machine writes it, or of a URL."""
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
    """Whether a name is a path below a folder: a URL is none, nor what leads out of it."""
    is_path = "://" not in name and "\0" not in name
    return is_path and not name.startswith("/") and ".." not in name.split("/")

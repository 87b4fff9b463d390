"""Reads label names, things and values from the labels.json beside label maps.

    {"labels": ["sky", "road", "car"], "things": ["car"], "ignore_index": 255}

`"reduce_labels": true` is for maps in which 0 is ignored and 1 is the first label.

Only `labels` is required. The file may also be a list of names alone, or a dictionary of names by
value, {"0": "sky", "7": "road"}, as transformers and the hub write it. `things` may be values too.
For maps of colours, `{"colors": {"road": [128, 64, 128], ...}}` gives the colour of each label, and
`"ignore_color"` a colour that is ignored; `labelmap.txt` (CVAT) and `label_colors.txt` (CamVid) may
stand in for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.datasets.colour_names import ColourNames, colour_names
from pipeline.datasets.label_values import LabelValues, MapColours
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import Labels
from pipeline.storage import Storage, join

_KEYS = {"labels", "things", "ignore_index", "reduce_labels", "colors", "ignore_color"}
_FILES = ("labels.json", "id2label.json")
_COLOUR_FILES = ("labelmap.txt", "label_colors.txt")


@dataclass(frozen=True, kw_only=True)
class KnownNames:
    """Label names of models, for label maps."""

    model: Sequence[str] | None = None
    """Names for maps that come without names."""
    reduced: Sequence[str] | None = None
    """Names of a model whose image processor has `do_reduce_labels`: maps with these names are read
    by its rule, unless the data or the settings say otherwise."""


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """Labels, and the rule by which label maps are read."""

    labels: Labels
    values: LabelValues
    notes: tuple[str, ...]
    """Lines for people on decisions made."""


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The checked content of a file of label names."""

    source: str
    """The file, for messages."""
    names: tuple[str, ...]
    values: tuple[int, ...] | None = None
    """The value of each label; None where they count from 0."""
    things: tuple[Any, ...] = ()
    ignore_index: int | None = None
    reduce_labels: bool | None = None
    colours: MapColours | None = None


def label_names(
    settings: DatasetSettings,
    *,
    folder: str,
    storage: Storage,
    known: KnownNames,
    stored: Sequence[str] | None = None,
) -> LabelNames:
    """Reads the labels that the settings name, or the folder has, or else those of the model.

    Args:
        stored: names in the data itself.

    Raises:
        ValueError: there are no names, or they contradict each other.
    """
    found = _find_names(settings, folder=folder, storage=storage)
    if found is None and stored is not None:
        found = _Names(source="the data", names=tuple(stored))
    if found is None:
        if known.model is None:
            raise ValueError(
                f"label maps need names: write {join(folder, 'labels.json')} with "
                '{"labels": ["sky", ...]}, in the order of their values, or name such a file by '
                "--labels"
            )
        found = _Names(source="the model", names=tuple(known.model))
    labels = Labels(names=found.names, things=_things(found))
    return _with_rule(found, labels=labels, settings=settings, known=known)


def _find_names(settings: DatasetSettings, *, folder: str, storage: Storage) -> _Names | None:
    if settings.labels is not None:
        given = _read(settings.labels, storage=storage)
        if given is None:
            raise ValueError(f"there is no file {settings.labels} with label names")
        return _parse(given, source=settings.labels)
    for name in (*_FILES, *_COLOUR_FILES):
        source = join(folder, name)
        data = _read(source, storage=storage)
        if data is None:
            continue
        found = _parse(data, source=source)
        return found if found.colours else _with_colours(found, folder=folder, storage=storage)
    return None


def _read(source: str, *, storage: Storage) -> bytes | None:
    try:
        return storage.read(source)
    except FileNotFoundError:
        return None


def _with_colours(found: _Names, *, folder: str, storage: Storage) -> _Names:
    """Adds the colours that a file beside labels.json gives to the same names."""
    for name in _COLOUR_FILES:
        source = join(folder, name)
        data = _read(source, storage=storage)
        named = None if data is None else colour_names(data, source=source)
        if named is not None and {*found.names} <= {*named.of_labels}:
            void = [c for other, c in named.of_labels.items() if other not in found.names]
            colours = MapColours(
                of_labels=tuple(named.of_labels[label] for label in found.names),
                void=(*named.void, *void),
                grey_too=False,
            )
            return replace(found, colours=colours)
    return found


def _parse(data: bytes, *, source: str) -> _Names:
    if source.endswith(".txt"):
        return _names_of_colours(colour_names(data, source=source), source=source)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{source} must be JSON, and is not: {error}") from error
    if isinstance(found, dict) and "id2label" in found:  # a model's config.json
        found = {"labels": found["id2label"]}
    if isinstance(found, list) or (isinstance(found, dict) and found and not _KEYS & found.keys()):
        found = {"labels": found}
    if not isinstance(found, dict) or not {"labels", "colors"} & found.keys():
        raise ValueError(f'{source} must hold {{"labels": ["sky", ...]}}, a list of names')
    if unknown := sorted(found.keys() - _KEYS):
        raise ValueError(f"{source} may hold {', '.join(sorted(_KEYS))}; got {unknown[0]!r}")
    for name, kind, what in (
        ("ignore_index", int, "a whole number"),
        ("reduce_labels", bool, "true or false"),
        ("things", list, "a list of names or ids of labels"),
    ):
        if not isinstance(found.get(name, kind()), kind):
            raise ValueError(f"{source}: {name} must be {what}, got {json.dumps(found[name])[:60]}")
    colours = None
    if "colors" in found:
        named = ColourNames.of(found["colors"], ignored=found.get("ignore_color"), source=source)
        found.setdefault("labels", list(named.of_labels))
        colours = named
    names, values = _names_and_values(found["labels"], source=source)
    return _Names(
        source=source,
        names=names,
        values=values,
        things=tuple(found.get("things", [])),
        ignore_index=found.get("ignore_index"),
        reduce_labels=found.get("reduce_labels"),
        colours=None if colours is None else _map_colours(colours, names=names, source=source),
    )


def _names_and_values(given: Any, *, source: str) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Returns the names by label id, and their values where these are not the ids."""
    if isinstance(given, Mapping) and given:
        if all(type(value) is int for value in given.values()):  # a label2id
            given = {value: name for name, value in given.items()}
        try:
            by_value = {int(value): name for value, name in given.items()}
        except ValueError as error:
            raise ValueError(
                f'{source} must hold {{"labels": ["sky", ...]}}, a list of names, or their names '
                f'by value, {{"0": "sky", ...}}; got {json.dumps(given)[:80]}'
            ) from error
        values = tuple(sorted(by_value))
        if len(values) < len(given) or values[0] < 0 or values[-1] >= 1 << 16:
            raise ValueError(
                f"{source}: each label must have a value of its own in 0 to 65535, got "
                f"{json.dumps(given)[:80]}"
            )
        names = [by_value[value] for value in values]
    else:
        names, values = given, ()
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f'{source} must hold {{"labels": ["sky", ...]}}, a list of names')
    has_gaps = values != tuple(range(len(values)))
    return tuple(names), values if has_gaps else None


def _names_of_colours(named: ColourNames, *, source: str) -> _Names:
    names = tuple(named.of_labels)
    return _Names(
        source=source, names=names, colours=_map_colours(named, names=names, source=source)
    )


def _map_colours(named: ColourNames, *, names: Sequence[str], source: str) -> MapColours:
    if lacking := [name for name in names if name not in named.of_labels]:
        raise ValueError(f"{source}: every label must have a colour, {lacking[0]!r} has none")
    if others := [name for name in named.of_labels if name not in names]:
        raise ValueError(f"{source}: colors must be those of labels, got {others[0]!r}")
    return MapColours(
        of_labels=tuple(named.of_labels[name] for name in names), void=named.void, grey_too=True
    )


def _things(found: _Names) -> frozenset[int]:
    ids: dict[Any, int] = {name: index for index, name in enumerate(found.names)}
    ids |= {value: label for label, value in enumerate(found.values or range(len(found.names)))}
    for thing in found.things:
        if isinstance(thing, int) and found.values is None:
            continue  # `Labels` says which ids there are
        if not isinstance(thing, (int, str)) or thing not in ids:
            raise ValueError(
                f"{found.source}: things must be names or ids of labels, got {thing!r}"
            )
    return frozenset(ids.get(thing, thing) for thing in found.things)


def _with_rule(
    found: _Names, *, labels: Labels, settings: DatasetSettings, known: KnownNames
) -> LabelNames:
    """Adds the rule by which maps are read: of the settings, the file, the model or by default."""
    if found.colours is not None and found.colours.grey_too:
        settings.refuse("ignore_index", "reduce_labels", because="maps whose labels are colours")
    notes: tuple[str, ...] = ()
    reduce_labels = settings.reduce_labels
    if reduce_labels is None:
        reduce_labels = found.reduce_labels
    if reduce_labels is None:
        is_the_models = known.reduced is not None and found.names == tuple(known.reduced)
        reduce_labels = is_the_models and found.values is None and found.colours is None
        if reduce_labels:
            notes = (
                "label maps are read by the model's rule (do_reduce_labels): 0 is ignored and 1 is "
                f"{found.names[0]!r}; if 0 is {found.names[0]!r}, add --reduce_labels false",
            )
    first = int(reduce_labels)
    values = {value + first for value in found.values or range(len(found.names))}
    given = settings.ignore_index if settings.ignore_index is not None else found.ignore_index
    ignore_index = given if given is not None else _default_ignore_index(values)
    if ignore_index in values:
        raise ValueError(
            f"ignore_index must be no label, got {ignore_index}; labels go from {min(values)} to "
            f"{max(values)} in the maps"
        )
    return LabelNames(
        labels=labels,
        values=LabelValues(
            ignore_index=ignore_index,
            is_ignore_index_given=given is not None,
            reduce_labels=reduce_labels,
            values=found.values,
            colours=found.colours,
        ),
        notes=notes,
    )


def _default_ignore_index(values: set[int]) -> int:
    return 255 if max(values) < 255 else 65535

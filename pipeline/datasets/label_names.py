"""Label names: what stands in labels.json beside label maps, and how their values are written.

    {"labels": ["sky", "road", "car"], "things": ["car"], "ignore_index": 255}

`"reduce_labels": true` is for maps in which 0 counts for nothing and 1 is the first label.

Only `labels` must be there; a list of names alone will do, and so will a dictionary of names by
value, {"0": "sky", "7": "road"}, as transformers and the hub write it. `things` may be values too.
Where maps are of colours, `{"colors": {"road": [128, 64, 128], ...}}` says what they mean, and
`"ignore_color"` what counts for nothing; `labelmap.txt` (CVAT) and `label_colors.txt` (CamVid)
say the same.
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
    """Names that come from elsewhere than the data."""

    model: Sequence[str] | None = None
    """Of the model, for maps that come without any."""
    reduced: Sequence[str] | None = None
    """Of a model whose image processor has `do_reduce_labels`: maps with these names are read by
    its rule where nothing says otherwise."""


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """Labels, and how label maps write them."""

    labels: Labels
    values: LabelValues
    notes: tuple[str, ...] = ()
    """What was decided, for people."""


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a file says of labels, checked."""

    place: str
    names: tuple[str, ...]
    values: tuple[int, ...] | None = None
    """By label; None where they count from 0."""
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
    """The labels of the settings, of the folder, or of the model where neither names any.

    Args:
        stored: names that the data itself has.

    Raises:
        ValueError: there are none, or they contradict themselves.
    """
    said = _said(settings, folder=folder, storage=storage)
    if said is None and stored is not None:
        said = _Said(place="the data", names=tuple(stored))
    if said is None:
        if known.model is None:
            raise ValueError(
                f"label maps need names: write {join(folder, 'labels.json')} with "
                '{"labels": ["sky", ...]}, in the order of their values, or name such a file by '
                "--labels"
            )
        said = _Said(place="the model", names=tuple(known.model))
    labels = Labels(names=said.names, things=_things(said))
    return _with_rule(said, labels=labels, settings=settings, known=known)


def _said(settings: DatasetSettings, *, folder: str, storage: Storage) -> _Said | None:
    if settings.labels is not None:
        given = _read(settings.labels, storage=storage)
        if given is None:
            raise ValueError(f"there is no file {settings.labels} with label names")
        return _parsed(given, place=settings.labels)
    for name in (*_FILES, *_COLOUR_FILES):
        place = join(folder, name)
        data = _read(place, storage=storage)
        if data is None:
            continue
        said = _parsed(data, place=place)
        return said if said.colours else _coloured(said, folder=folder, storage=storage)
    return None


def _read(place: str, *, storage: Storage) -> bytes | None:
    try:
        return storage.read(place)
    except FileNotFoundError:
        return None


def _coloured(said: _Said, *, folder: str, storage: Storage) -> _Said:
    """With the colours that a file beside labels.json gives to the same names."""
    for name in _COLOUR_FILES:
        place = join(folder, name)
        data = _read(place, storage=storage)
        named = None if data is None else colour_names(data, place=place)
        if named is not None and {*said.names} <= {*named.of_labels}:
            void = [c for other, c in named.of_labels.items() if other not in said.names]
            colours = MapColours(
                of_labels=tuple(named.of_labels[label] for label in said.names),
                void=(*named.void, *void),
                grey_too=False,
            )
            return replace(said, colours=colours)
    return said


def _parsed(data: bytes, *, place: str) -> _Said:
    if place.endswith(".txt"):
        return _of_colours(colour_names(data, place=place), place=place)
    try:
        said = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{place} must be JSON, and is not: {error}") from error
    if isinstance(said, dict) and "id2label" in said:  # a model's config.json
        said = {"labels": said["id2label"]}
    if isinstance(said, list) or (isinstance(said, dict) and said and not _KEYS & said.keys()):
        said = {"labels": said}
    if not isinstance(said, dict) or not {"labels", "colors"} & said.keys():
        raise ValueError(f'{place} must hold {{"labels": ["sky", ...]}}, a list of names')
    if unknown := sorted(said.keys() - _KEYS):
        raise ValueError(f"{place} may hold {', '.join(sorted(_KEYS))}; got {unknown[0]!r}")
    for name, kind, what in (
        ("ignore_index", int, "a whole number"),
        ("reduce_labels", bool, "true or false"),
        ("things", list, "a list of names or ids of labels"),
    ):
        if not isinstance(said.get(name, kind()), kind):
            raise ValueError(f"{place}: {name} must be {what}, got {json.dumps(said[name])[:60]}")
    colours = None
    if "colors" in said:
        named = ColourNames.of(said["colors"], ignored=said.get("ignore_color"), place=place)
        said.setdefault("labels", list(named.of_labels))
        colours = named
    names, values = _names(said["labels"], place=place)
    return _Said(
        place=place,
        names=names,
        values=values,
        things=tuple(said.get("things", [])),
        ignore_index=said.get("ignore_index"),
        reduce_labels=said.get("reduce_labels"),
        colours=None if colours is None else _map_colours(colours, names=names, place=place),
    )


def _names(given: Any, *, place: str) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Names by label id, and their values where these are not the ids."""
    if isinstance(given, Mapping) and given:
        if all(type(value) is int for value in given.values()):  # a label2id
            given = {value: name for name, value in given.items()}
        try:
            by_value = {int(value): name for value, name in given.items()}
        except ValueError as error:
            raise ValueError(
                f'{place} must hold {{"labels": ["sky", ...]}}, a list of names, or their names by '
                f'value, {{"0": "sky", ...}}; got {json.dumps(given)[:80]}'
            ) from error
        values = tuple(sorted(by_value))
        if len(values) < len(given) or values[0] < 0 or values[-1] >= 1 << 16:
            raise ValueError(
                f"{place}: each label must have a value of its own in 0 to 65535, got "
                f"{json.dumps(given)[:80]}"
            )
        names = [by_value[value] for value in values]
    else:
        names, values = given, ()
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f'{place} must hold {{"labels": ["sky", ...]}}, a list of names')
    has_gaps = values != tuple(range(len(values)))
    return tuple(names), values if has_gaps else None


def _of_colours(named: ColourNames, *, place: str) -> _Said:
    names = tuple(named.of_labels)
    return _Said(place=place, names=names, colours=_map_colours(named, names=names, place=place))


def _map_colours(named: ColourNames, *, names: Sequence[str], place: str) -> MapColours:
    if lacking := [name for name in names if name not in named.of_labels]:
        raise ValueError(f"{place}: every label must have a colour, {lacking[0]!r} has none")
    if others := [name for name in named.of_labels if name not in names]:
        raise ValueError(f"{place}: colors must be those of labels, got {others[0]!r}")
    return MapColours(
        of_labels=tuple(named.of_labels[name] for name in names), void=named.void, grey_too=True
    )


def _things(said: _Said) -> frozenset[int]:
    ids: dict[Any, int] = {name: index for index, name in enumerate(said.names)}
    ids |= {value: label for label, value in enumerate(said.values or range(len(said.names)))}
    for thing in said.things:
        if isinstance(thing, int) and said.values is None:
            continue  # `Labels` says which ids there are
        if not isinstance(thing, (int, str)) or thing not in ids:
            raise ValueError(f"{said.place}: things must be names or ids of labels, got {thing!r}")
    return frozenset(ids.get(thing, thing) for thing in said.things)


def _with_rule(
    said: _Said, *, labels: Labels, settings: DatasetSettings, known: KnownNames
) -> LabelNames:
    """How maps are read: as the settings say, else the file, else the model, else as usual."""
    if said.colours is not None and said.colours.grey_too:
        settings.refuse("ignore_index", "reduce_labels", because="maps whose labels are colours")
    notes: tuple[str, ...] = ()
    reduce_labels = settings.reduce_labels
    if reduce_labels is None:
        reduce_labels = said.reduce_labels
    if reduce_labels is None:
        is_the_models = known.reduced is not None and said.names == tuple(known.reduced)
        reduce_labels = is_the_models and said.values is None and said.colours is None
        if reduce_labels:
            notes = (
                "label maps are read by the model's own rule (do_reduce_labels): 0 counts for "
                f"nothing and 1 is {said.names[0]!r}; --reduce_labels false where 0 is that",
            )
    first = int(reduce_labels)
    values = {value + first for value in said.values or range(len(said.names))}
    given = settings.ignore_index if settings.ignore_index is not None else said.ignore_index
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
            values=said.values,
            colours=said.colours,
        ),
        notes=notes,
    )


def _default_ignore_index(values: set[int]) -> int:
    return 255 if max(values) < 255 else 65535

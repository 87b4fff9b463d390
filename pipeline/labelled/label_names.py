"""Label names: what stands in labels.json beside label maps.

    {"labels": ["sky", "road", "car"], "things": ["car"], "ignore_index": 255}

`"reduce_labels": true` is for maps in which 0 counts for nothing and 1 is the first label.

Only `labels` must be there; a list of names alone will do. `things` may be ids too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import Labels, MapValues
from pipeline.storage import Storage, join

_KEYS = {"labels", "things", "ignore_index", "reduce_labels"}


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """Labels, and how label maps write them."""

    labels: Labels
    meaning: MapValues


def label_names(
    settings: DatasetSettings,
    *,
    folder: str,
    storage: Storage,
    model_labels: Sequence[str] | None,
) -> LabelNames:
    """The labels of the settings, of the folder, or of the model where neither names any.

    Raises:
        ValueError: there are none, or they contradict themselves.
    """
    place = settings.labels or join(folder, "labels.json")
    try:
        said = _parsed(storage.read(place), place=place)
    except FileNotFoundError:
        if settings.labels is not None:
            raise ValueError(f"there is no file {place} with label names") from None
        if model_labels is None:
            raise ValueError(
                f'label maps need names: write {place} with {{"labels": ["sky", ...]}}, in the '
                "order of their values, or name such a file by --labels"
            ) from None
        said, place = {"labels": list(model_labels)}, "the model"
    names = tuple(said["labels"])
    ids = {name: index for index, name in enumerate(names)}
    things = said.get("things", [])
    if unknown := [thing for thing in things if not isinstance(thing, int) and thing not in ids]:
        raise ValueError(f"{place}: things must be names or ids of labels, got {unknown[0]!r}")
    labels = Labels(
        names=names,
        things=frozenset(t if isinstance(t, int) else ids[t] for t in things),
    )
    return LabelNames(labels=labels, meaning=_meaning(said, settings=settings, count=len(names)))


def _meaning(said: dict[str, Any], *, settings: DatasetSettings, count: int) -> MapValues:
    reduce_labels = settings.reduce_labels
    if reduce_labels is None:
        reduce_labels = bool(said.get("reduce_labels", False))
    ignore_index = settings.ignore_index
    if ignore_index is None:
        ignore_index = said.get("ignore_index", 255 if count + reduce_labels <= 255 else 65535)
    first = int(reduce_labels)
    if first <= ignore_index < first + count:
        raise ValueError(
            f"ignore_index must be no label, got {ignore_index}; labels go from {first} to "
            f"{first + count - 1} in the maps"
        )
    return MapValues(ignore_index=ignore_index, reduce_labels=reduce_labels)


def _parsed(data: bytes, *, place: str) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{place} must be JSON, and is not: {error}") from error
    if isinstance(said, list):
        said = {"labels": said}
    names = said.get("labels") if isinstance(said, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f'{place} must hold {{"labels": ["sky", ...]}}, a list of names')
    if unknown := sorted(said.keys() - _KEYS):
        raise ValueError(f"{place} may hold {', '.join(sorted(_KEYS))}; got {unknown[0]!r}")
    if not isinstance(said.get("ignore_index", 0), int):
        raise ValueError(f"{place}: ignore_index must be a whole number")
    return said

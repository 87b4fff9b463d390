"""Reads tasks of Label Studio, its JSON and JSON-MIN: brushes and polygons of each image.

A person's annotation of a task goes before predictions; of several that were not cancelled, the one
that was changed last.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.exchange.importing.annotations import FileImage, Kind, Region, UnreadableFile
from pipeline.exchange.importing.json_elements import JsonElements

_LABELS = ("brushlabels", "polygonlabels", "labels")
_SHAPES = ("rle", "points")
_NO_MASKS = (
    "rectanglelabels", "ellipselabels", "keypointlabels", "rectangle", "ellipse", "keypoint",
    "bitmasklabels", "vectorlabels",
)  # fmt: skip
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


class LabelStudioReader:
    """Reads a list of tasks."""

    labels = None

    def __init__(self, file: BinaryIO, *, uri: str, decides_overlaps: bool) -> None:
        self.decides_overlaps = decides_overlaps
        self._file, self._uri = file, uri

    def __iter__(self) -> Iterator[FileImage | Region]:
        for key, index, task in JsonElements(self._file, uri=self._uri):
            if key is not None or not isinstance(task, dict):
                raise UnreadableFile(
                    f"{self._uri} must be Label Studio's JSON, a list of tasks; export the project "
                    "as JSON"
                )
            try:
                yield from self._task(task, index)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise UnreadableFile(
                    f"{self._uri}: task {index} is no task of Label Studio: {what}"
                ) from None

    def _task(self, task: Mapping[str, Any], index: int) -> Iterator[FileImage | Region]:
        is_whole = "data" in task
        data = task["data"] if is_whole else task
        reviewer, results = _newest(task) if is_whole else (_person(task.get("annotator")), None)
        if results is None:
            results = list(_minimal_results(task))
        sizes = {
            (int(each["original_height"]), int(each["original_width"]))
            for each in results
            if "original_height" in each and "original_width" in each
        }
        height, width = next(iter(sizes)) if len(sizes) == 1 else (None, None)
        revision = data.get("table_revision")
        yield FileImage(
            key=str(index),
            name=image_name(_address(data)),
            height=height if height is not None else data.get("height"),
            width=width if width is not None else data.get("width"),
            image_id=data.get("table_image_id"),
            etag=data.get("table_etag"),
            revision=revision if isinstance(revision, int) else None,
            reviewer=reviewer,
        )
        yield from _regions(results, key=str(index), has_one_size=len(sizes) < 2)


def image_name(address: str) -> str:
    """Returns the path of an image in the address that a task has of it.

    `/data/local-files/?d=photos/a.jpg` is photos/a.jpg; uploaded files have eight digits before
    their name.
    """
    parts = urlsplit(address)
    document = parse_qs(parts.query).get("d")
    if document:
        return document[0]
    path = unquote(parts.path).lstrip("/")
    if "data/upload/" in path:
        return _UPLOADED.sub("", path.rpartition("/")[2])
    return path


def _address(data: Mapping[str, Any]) -> str:
    """Returns the address of the image: of `image`, else of the first text that could be one."""
    if isinstance(data.get("image"), str):
        return data["image"]
    texts = (v for k, v in data.items() if isinstance(v, str) and not k.startswith("table_"))
    return next((text for text in texts if "/" in text or "." in text), "")


def _newest(task: Mapping[str, Any]) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """Returns who annotated a task, and the results that count."""
    given = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
    if given:
        last = max(given, key=lambda each: str(each.get("updated_at") or each.get("created_at")))
        return _person(last.get("completed_by")), last.get("result") or []
    predictions = task.get("predictions") or ()
    # Exports may hold the ids of predictions alone.
    whole = [each for each in predictions if isinstance(each, dict)]
    if not whole:
        raise ValueError("it has neither an annotation nor a prediction with results")
    return None, whole[-1].get("result") or []


def _person(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("username") or value.get("id")
    return None if value is None else str(value)


def _minimal_results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the regions of JSON-MIN, which stand in a list under the name of their tag."""
    for values in task.values():
        for each in values if isinstance(values, list) else ():
            if isinstance(each, dict) and any(name in each for name in (*_LABELS, *_NO_MASKS)):
                sizes = {k: each[k] for k in ("original_height", "original_width") if k in each}
                types = [name for name in (*_LABELS, *_NO_MASKS) if name in each]
                yield {"type": types[0], "value": each, **sizes}


def _regions(
    results: Sequence[Mapping[str, Any]], *, key: str, has_one_size: bool
) -> Iterator[Region]:
    # A brush and its label are two results with one id where the labels are a tag of their own.
    names: dict[object, str] = {}
    for each in results:
        if label := _label(each.get("value") or {}):
            names.setdefault(each.get("id"), label)
    for number, each in enumerate(results, start=1):
        value = each.get("value") or {}
        kind, payload = _shape(each, value)
        if kind is None:
            continue
        label = _label(value) or names.get(each.get("id"))
        if label is None:
            kind, payload, label = "problem", b"has no label", ""
        if not has_one_size:
            kind, payload = "problem", b"is of an image of another size than another region is"
        yield Region(
            image=key, label=label, kind=kind, payload=payload, name=str(each.get("id") or number)
        )


def _label(value: Mapping[str, Any]) -> str | None:
    found = next((value[name] for name in (*_LABELS, *_NO_MASKS) if value.get(name)), None)
    if isinstance(found, list) and len(found) > 1:
        raise ValueError(f"a region has {len(found)} labels, {found}; leave one")
    return str(found[0]) if isinstance(found, list) else None


def _shape(each: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[Kind | None, bytes]:
    """Returns kind and payload of a region; None for a result that is none, as a choice."""
    if isinstance(value.get("rle"), list):
        try:
            return "brush", bytes(value["rle"])
        except (TypeError, ValueError):
            return "problem", b"rle must be a list of bytes, whole numbers from 0 to 255"
    if isinstance(value.get("points"), list) and "original_width" in each:
        sides = each["original_width"] / 100, each["original_height"] / 100
        points = [side * share for point in value["points"] for side, share in zip(sides, point)]  # noqa: B905
        return "polygons", json.dumps([points]).encode()
    if each.get("type") in _NO_MASKS or any(name in value for name in _NO_MASKS):
        return "problem", b"is no brush and no polygon; draw it as one, or delete it"
    return None, b""

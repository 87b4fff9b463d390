"""Reads COCO's JSON: instances with polygons or run lengths, or panoptic maps beside it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import msgspec

from pipeline.exchange.importing.annotations import FileImage, Kind, Region, UnreadableFile
from pipeline.exchange.importing.json_elements import JsonElements

_LISTS = ("images", "annotations", "categories")


class CocoReader:
    """Reads a JSON with lists of images, annotations and categories, in any order."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        uri: str,
        maps: str | None = None,
        decides_overlaps: bool = False,
    ) -> None:
        """Reads instances, or with `maps` the panoptic format.

        Args:
            maps: the folder of the PNGs that the annotations name.
            decides_overlaps: True to lay later instances over earlier ones.
        """
        self.decides_overlaps = decides_overlaps
        self._file, self._uri, self._maps = file, uri, maps
        self._categories: dict[str, str] = {}
        self._reviewer: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        return self._categories

    def __iter__(self) -> Iterator[FileImage | Region]:
        seen = set()
        try:
            for key, index, element in JsonElements(self._file, uri=self._uri):
                seen.add(key)
                if key in _LISTS and not isinstance(element, dict):
                    raise self._wrong(key, index, "must be an object")
                if key == "images":
                    yield self._image(element)
                elif key == "annotations":
                    yield self._map(element) if self._maps is not None else self._region(element)
                elif key == "categories":
                    self._categories[id_key(element["id"])] = str(element["name"])
                elif key == "info" and isinstance(element, dict):
                    self._reviewer = str(element.get("contributor") or "") or None
        except KeyError as error:
            raise self._wrong(key, index, f"must have {error.args[0]}") from None
        if None in seen or "images" not in seen or not {"annotations", "categories"} & seen:
            raise UnreadableFile(
                f"{self._uri} must be COCO's JSON, with lists of images, annotations and categories"
            )

    def _wrong(self, key: str | None, index: int, rule: str) -> UnreadableFile:
        return UnreadableFile(f"{self._uri}: {key}[{index}] {rule}")

    def _image(self, image: Mapping[str, Any]) -> FileImage:
        name = image.get("file_name") or _last_name(image.get("coco_url"))
        revision = image.get("table_revision")
        return FileImage(
            key=id_key(image["id"]),
            name=str(name or ""),
            height=_side(image.get("height")),
            width=_side(image.get("width")),
            image_id=image.get("table_image_id"),
            etag=image.get("table_etag"),
            revision=revision if isinstance(revision, int) else None,
            reviewer=self._reviewer,
        )

    def _region(self, annotation: Mapping[str, Any]) -> Region:
        kind: Kind
        shape = annotation.get("segmentation")
        if annotation.get("iscrowd"):
            kind, payload = "problem", b"is a crowd (iscrowd 1), which no table holds"
        elif isinstance(shape, dict) and isinstance(shape.get("counts"), str):
            text = f"{shape.get('size')}\n{shape['counts']}"
            kind, payload = "rle", text.encode("utf-8", "surrogatepass")
        elif shape:
            kind, payload = "polygons", msgspec.json.encode(shape)
        else:
            kind, payload = "problem", b"has no segmentation, only a box or nothing"
        return Region(
            image=id_key(annotation["image_id"]),
            label=id_key(annotation["category_id"]),
            kind=kind,
            payload=payload,
            name=str(annotation.get("id", "")),
        )

    def _map(self, annotation: Mapping[str, Any]) -> Region:
        infos = annotation["segments_info"]
        try:
            categories = {int(info["id"]): id_key(info["category_id"]) for info in infos}
        except (TypeError, ValueError, AttributeError):
            raise UnreadableFile(
                f"{self._uri}: segments_info of {annotation['file_name']} must be a list of "
                'segments, as {"id": 1, "category_id": 1}'
            ) from None
        content = {
            "folder": self._maps,
            "name": str(annotation["file_name"]),
            "categories": categories,
            "is_twice": len(categories) < len(infos),
        }
        return Region(
            image=id_key(annotation["image_id"]),
            label="",
            kind="id_map",
            payload=json.dumps(content).encode(),
            name=str(annotation["file_name"]),
        )


def id_key(value: object) -> str:
    """Returns a key for an id: 1.0 is the number 1, and "1" another id."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _side(value: object) -> int | None:
    is_whole = isinstance(value, int | float) and value == int(value)
    return int(value) if is_whole else None  # type: ignore[call-overload]


def _last_name(url: object) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2] if isinstance(url, str) else ""

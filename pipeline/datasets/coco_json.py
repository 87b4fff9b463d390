"""COCO's JSON: read once, checked against its schema, and what is wrong with it named by its place.

`coco_instances.py` and `coco_panoptic.py` say which fields they need, as types of msgspec: decoding
is checking, and fields that nobody needs are passed over. A segmentation stays the text that stands
in the file until `coco_segmentation.py` looks at it, so that a file of a million objects stays
small.
"""

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec

from pipeline.datasets.target import LabelError
from pipeline.storage import Storage

Id: TypeAlias = int | float | str
"""Of an image, an annotation or a category. 1.0 is the number 1; "1" is another id."""
Flag: TypeAlias = int | float | bool | None
"""0 or 1; null where nothing is said."""
Path: TypeAlias = tuple[str | int, ...]
"""Where something stands in the JSON: ("annotations", 3, "iscrowd")."""
Content = TypeVar("Content")
NULL = msgspec.Raw(b"null")
"""A text of JSON that says nothing."""

_RULES = {
    "id": "must be a number or a text",
    "image_id": "must be the id of an image, a number or a text",
    "category_id": "must be the id of a category, a number or a text",
    "file_name": "must be the name of a file",
    "name": "must be a text",
    "height": "must be the photograph's, a whole number of pixels from 1 on",
    "width": "must be the photograph's, a whole number of pixels from 1 on",
    "area": "must be a number of pixels from 0 on",
    "iscrowd": "must be the number 0 or 1",
    "isthing": "must be the number 0 or 1",
    "segments_info": 'must be a list of segments, as {"id": 1, "category_id": 1}',
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_SHOWN = 60
_NUMBER = re.compile(r'"-?\d+(\.\d*)?"')


class Entries(msgspec.Struct, frozen=True, gc=False):
    """The lists of a COCO JSON; an entry is the text that it is in the file."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """A JSON with lists of images, annotations and categories, none of them empty."""

    uri: str
    data: bytes
    """In UTF-8, with texts in place of NaN and infinities, which are no JSON."""
    entries: Entries

    @classmethod
    def read(cls, uri: str, *, storage: Storage) -> "CocoFile":
        """The file.

        Raises:
            LabelError: it is not there, no JSON, not COCO's, or one of its lists is empty.
        """
        try:
            data, entries = _entries(storage.read(uri))
        except FileNotFoundError:
            raise LabelError(f"there is no file {uri}") from None
        except msgspec.ValidationError:
            raise LabelError(
                f"{uri} must be COCO's JSON, with lists of images, annotations and categories"
            ) from None
        except (ValueError, RecursionError) as error:
            raise _no_json(uri, error) from error
        for name in ("images", "annotations", "categories"):
            if not getattr(entries, name):
                raise LabelError(f"{uri} must list {name}, to learn or to judge by; it lists none")
        return cls(uri=uri, data=data, entries=entries)

    def read_as(self, content: type[Content]) -> Content:
        """The content, by a type that says what must be there.

        Raises:
            LabelError: something else is there; says where.
        """
        try:
            return msgspec.json.decode(self.data, type=content)
        except msgspec.ValidationError as error:
            path, rule = complaint_of(error)
            is_number = _NUMBER.fullmatch(self.shown(path)) is not None
            way_out = "write it without quotation marks" if is_number else ""
            raise self.wrong(path, rule=rule, way_out=way_out) from error
        except (ValueError, RecursionError) as error:
            raise _no_json(self.uri, error) from error

    def wrong(self, path: Path, *, rule: str | None = None, way_out: str = "") -> LabelError:
        """The error about a value: its place, whose it is, what must hold and what came."""
        owner, ending = self.owner(path), f"; {way_out}" if way_out else ""
        return LabelError(
            f"{self.uri}: {path_name(path)}{f' ({owner})' if owner else ''} "
            f"{rule or _RULES[str(path[-1])]}, got {self.shown(path)}{ending}"
        )

    def owner(self, path: Path) -> str:
        """Which image, category or annotation of the file's own names an entry is."""
        entry = self._entry(path)
        names = entry if isinstance(entry, dict) else {}
        if path[:1] != ("annotations",):
            name = names.get("file_name") or names.get("name") or names.get("id")
            return "" if name is None else str(name)
        name = f"annotation {names['id']}" if "id" in names else "without an id,"
        image_id = names.get("image_id")
        images = (
            image for image in map(_read_text, self.entries.images) if isinstance(image, dict)
        )
        of_id = (image.get("file_name") for image in images if image.get("id") == image_id)
        image_name = next(of_id, image_id)
        return name.rstrip(",") if image_id is None else f"{name} of image {image_name}"

    def shown(self, path: Path) -> str:
        """The start of what stands at a place, as JSON; nothing where nothing does."""
        value = self._entry(path)
        for step in path[2:]:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return "nothing"
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def _entry(self, path: Path) -> Any:
        """The entry of a list that a path leads into."""
        if len(path) < 2 or not isinstance(path[1], int):
            return None
        return _read_text(getattr(self.entries, str(path[0]))[path[1]])


def complaint_of(error: msgspec.ValidationError) -> tuple[Path, str]:
    """Where msgspec found something else than it expected, and what must be there.

    Its messages are "Expected `int | null`, got `str` - at `$.images[1].height`" and the like.
    """
    said, _, place = str(error).partition(" - at `$")
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", place)
    path = tuple(key or int(index) for key, index in steps)
    lacking = re.search(r"missing required field `(\w+)`", said)
    if lacking is not None:
        return path, f"must have {lacking[1]}"
    if path and path[-1] in _RULES:
        return path, _RULES[str(path[-1])]
    expected = re.match(r"Expected `([^`]+)`", said)
    kinds = expected[1].split(" | ") if expected else ["float"]
    return path, f"must be {' or '.join(_WORDS.get(kind, kind) for kind in kinds)}"


def _read_text(text: msgspec.Raw) -> Any:
    """What an entry says, for messages: whatever stands in it, it can be shown."""
    try:
        return json.loads(bytes(text).decode(errors="replace"), parse_int=_short_number)
    except (ValueError, RecursionError):
        return None


def _short_number(text: str) -> int | float:
    return int(text) if len(text) < 20 else float(text)


def path_name(path: Path) -> str:
    """A place as programs write it: annotations[3].iscrowd."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".") or "the file"


def is_set(file: CocoFile, path: Path, value: Flag) -> bool:
    """A flag that may be there or not.

    Raises:
        LabelError: it is neither 0 nor 1.
    """
    if value not in (None, 0, 1):
        raise file.wrong(path)
    return bool(value)


def _no_json(uri: str, error: Exception) -> LabelError:
    said = "it nests too deep" if isinstance(error, RecursionError) else str(error)
    return LabelError(f"{uri} must be JSON, and is not: {said}")


_CONSTANT = re.compile(
    rb"[NI-](?<=[\[,:\s].)(?:(?<=N)aN|(?<=I)nfinity|(?<=-)Infinity)(?=\s*[,\]}])"
)


def _entries(data: bytes) -> tuple[bytes, Entries]:
    """The lists, and the JSON as UTF-8 without a mark in front.

    NaN and infinities, which Python writes, become texts: these are no numbers, so that they are
    named where a number must be, and do no harm where nobody looks.

    Raises:
        ValueError: it is no JSON all the same, or another.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data, msgspec.json.decode(data, type=Entries)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        data = _CONSTANT.sub(rb'"\g<0>"', data)
        return data, msgspec.json.decode(data, type=Entries)

"""Reads COCO's JSON once, checks it against a schema, and names errors by their path in it.

`coco_instances.py` and `coco_panoptic.py` declare the fields they need as types of msgspec, whose
decoder checks them and skips all others. A segmentation stays the text that stands in the file
until `coco_segmentation.py` checks it, so that a file of a million objects takes little memory.
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
"""The id of an image, an annotation or a category. 1.0 is the number 1; "1" is another id."""
Flag: TypeAlias = int | float | bool | None
"""0 or 1; null where the JSON does not say."""
Path: TypeAlias = tuple[str | int, ...]
"""The path to a value in the JSON: ("annotations", 3, "iscrowd")."""
Content = TypeVar("Content")
NULL = msgspec.Raw(b"null")
"""The JSON text of a missing value."""

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
    """The lists of a COCO JSON; each entry is its text in the file."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """A JSON with lists of images, annotations and categories, none of them empty."""

    uri: str
    data: bytes
    """In UTF-8, with texts for NaN and infinities, which are no JSON."""
    entries: Entries

    @classmethod
    def read(cls, uri: str, *, storage: Storage) -> "CocoFile":
        """Reads the file.

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
        """Decodes the content as a type of msgspec.

        Raises:
            LabelError: a value does not fit the type; names its path.
        """
        try:
            return msgspec.json.decode(self.data, type=content)
        except msgspec.ValidationError as error:
            path, rule = path_and_rule(error)
            is_number = _NUMBER.fullmatch(self.shown(path)) is not None
            way_out = "write it without quotation marks" if is_number else ""
            raise self.wrong(path, rule=rule, way_out=way_out) from error
        except (ValueError, RecursionError) as error:
            raise _no_json(self.uri, error) from error

    def wrong(self, path: Path, *, rule: str | None = None, way_out: str = "") -> LabelError:
        """Returns the error about a value: its path, its owner, the rule and the value."""
        owner, ending = self.owner(path), f"; {way_out}" if way_out else ""
        return LabelError(
            f"{self.uri}: {path_name(path)}{f' ({owner})' if owner else ''} "
            f"{rule or _RULES[str(path[-1])]}, got {self.shown(path)}{ending}"
        )

    def owner(self, path: Path) -> str:
        """Names the image, category or annotation of an entry, as the file calls it."""
        entry = self.entry(path)
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
        """Returns the start of the value at a path, as JSON; "nothing" where there is none."""
        value = self.entry(path)
        for step in path[2:]:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return "nothing"
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def entry(self, path: Path) -> Any:
        """Returns the list entry that a path leads into; None for no entry."""
        if len(path) < 2 or not isinstance(path[1], int):
            return None
        return _read_text(getattr(self.entries, str(path[0]))[path[1]])


def path_and_rule(error: msgspec.ValidationError) -> tuple[Path, str]:
    """Returns the path to the value that msgspec refused, and the rule that it breaks.

    Its messages are "Expected `int | null`, got `str` - at `$.images[1].height`" and the like.
    """
    message, _, path_text = str(error).partition(" - at `$")
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", path_text)
    path = tuple(key or int(index) for key, index in steps)
    lacking = re.search(r"missing required field `(\w+)`", message)
    if lacking is not None:
        return path, f"must have {lacking[1]}"
    if path and path[-1] in _RULES:
        return path, _RULES[str(path[-1])]
    expected = re.match(r"Expected `([^`]+)`", message)
    kinds = expected[1].split(" | ") if expected else ["float"]
    return path, f"must be {' or '.join(_WORDS.get(kind, kind) for kind in kinds)}"


def _read_text(text: msgspec.Raw) -> Any:
    """Parses an entry for messages; None where even that fails."""
    try:
        plain = _WRITTEN_CONSTANT.sub(rb"\1", bytes(text))
        return json.loads(plain.decode(errors="replace"), parse_int=_short_number)
    except (ValueError, RecursionError):
        return None


def _short_number(text: str) -> int | float:
    return int(text) if len(text) < 20 else float(text)


def path_name(path: Path) -> str:
    """Writes a path as programs do: annotations[3].iscrowd."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".") or "the file"


def is_set(file: CocoFile, path: Path, value: Flag) -> bool:
    """Returns an optional flag as a bool, False for null.

    Raises:
        LabelError: it is neither 0 nor 1.
    """
    if value not in (None, 0, 1):
        raise file.wrong(path)
    return bool(value)


def _no_json(uri: str, error: Exception) -> LabelError:
    reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
    return LabelError(f"{uri} must be JSON, and is not: {reason}")


_CONSTANT = re.compile(
    rb"[NI-](?<=[\[,:\s].)(?:(?<=N)aN|(?<=I)nfinity|(?<=-)Infinity)(?=\s*[,\]}])"
)
# Marked by a character that no text of the file can mean, so that messages show the constant.
_TEXT_FOR_CONSTANT = rb'"\\u0000\g<0>"'
_WRITTEN_CONSTANT = re.compile(rb'"\\u0000(NaN|-?Infinity)"')


def _entries(data: bytes) -> tuple[bytes, Entries]:
    """Returns the JSON as UTF-8 without a byte order mark, and its lists.

    NaN and infinities, which Python writes and JSON forbids, become texts: where a number must
    stand they are refused, and elsewhere they are skipped.

    Raises:
        ValueError: it is no JSON, or not COCO's.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data, msgspec.json.decode(data, type=Entries)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        data = _CONSTANT.sub(_TEXT_FOR_CONSTANT, data)
        return data, msgspec.json.decode(data, type=Entries)

"""Keeps `export.json`, which says that an export is whole, and what it is an export of.

It comes last. Until then `_unfinished_export.json` says what is being exported, so that the same
command goes on, and another one is refused.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.datasets.exports import UNFINISHED
from pipeline.exchange.exporting.output import Output

WHOLE = "export.json"

_SHOWN = 5


def begin(output: Output, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Marks an export as unfinished; returns the content of `export.json` if it is whole already.

    Args:
        request: all that decides about the bytes of the export.

    Raises:
        ValueError: the folder holds another export, or something else.
    """
    whole = _read(output, WHOLE)
    if whole is not None:
        _refuse_another(output, request, whole, name=WHOLE)
        output.remove_drafts()
        output.storage.delete([output.file(UNFINISHED)])
        return whole
    begun = _read(output, UNFINISHED)
    if begun is not None:
        _refuse_another(output, request, begun, name=UNFINISHED)
        output.remove_drafts()
        return None
    output.remove_drafts(of=UNFINISHED)
    found = output.first_file()
    if found is not None:
        raise ValueError(
            f"{output.uri} must be empty or hold an unfinished export, and it holds {found}; name "
            "another folder"
        )
    output.storage.write_new(output.file(UNFINISHED), json_bytes(request))
    return None


def finish(output: Output, content: Mapping[str, Any]) -> None:
    """Says that an export is whole."""
    output.write(WHOLE, json_bytes(content))
    output.storage.delete([output.file(UNFINISHED)])


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns a JSON for people and programs, the same for the same content."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _read(output: Output, name: str) -> dict[str, Any] | None:
    try:
        data = output.storage.read(output.file(name))
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict) or "export" not in content:
        raise ValueError(f"{output.file(name)} is not of an export; name another folder")
    return content


def _refuse_another(
    output: Output, request: Mapping[str, Any], found: Mapping[str, Any], *, name: str
) -> None:
    plain = json.loads(json_bytes(request))
    differing = [*_differences(plain, {key: found.get(key) for key in plain})]
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        state = "another export" if name == WHOLE else "an unfinished export of another kind"
        raise ValueError(
            f"{output.uri} holds {state}: {'; '.join(differing[:_SHOWN])}{more}; name another "
            "folder, or remove this one"
        )


def _differences(mine: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in sorted({*mine, *other}):
            yield from _differences(mine.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif mine != other:
        yield f"{path} is {_brief(other)} there, and {_brief(mine)} here"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Reads the elements of a large JSON one by one, so that memory does not grow with the file.

A file is an object whose values are lists, as COCO's, or a list, as Label Studio's. An element is
parsed by Python's own decoder as soon as it is whole in a buffer of some megabytes.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.exchange.importing.annotations import UnreadableFile

_CHUNK_BYTES = 1 << 22
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonElements:
    """Iterates over a JSON: yields ("images", 0, element) for an object of lists, and (None, 0,
    element) for a list. A value that is no list is one element of its key."""

    def __init__(self, file: BinaryIO, *, uri: str, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._file, self._uri, self._chunk_bytes = file, uri, chunk_bytes
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._is_end = "", 0, False
        self._bytes = codecs.getincrementaldecoder("utf-8-sig")()

    def __iter__(self) -> Iterator[tuple[str | None, int, Any]]:
        """Yields key, index in its list and parsed element.

        Raises:
            UnreadableFile: the file is cut off, or no JSON.
        """
        first = self._next_character()
        if first == "[":
            for index, element in self._list():
                yield None, index, element
        elif first == "{":
            yield from self._object()
        else:
            raise self._wrong("must begin with { or [")
        if self._next_character():
            raise self._wrong("must end after its last bracket")

    def _object(self) -> Iterator[tuple[str, int, Any]]:
        self._at += 1
        if self._next_character() == "}":
            self._at += 1
            return
        while True:
            key = self._value()
            if not isinstance(key, str) or self._next_character() != ":":
                raise self._wrong('must have "key": value')
            self._at += 1
            if self._next_character() == "[":
                for index, element in self._list():
                    yield key, index, element
            else:
                yield key, 0, self._value()
            if not self._is_followed(closing="}"):
                return

    def _list(self) -> Iterator[tuple[int, Any]]:
        self._at += 1
        if self._next_character() == "]":
            self._at += 1
            return
        index = 0
        while True:
            yield index, self._value()
            index += 1
            # The usual case at once: a comma, and the next element in the buffer.
            comma = _COMMA.match(self._text, self._at)
            if comma and comma.end() < len(self._text):
                self._at = comma.end()
            elif not self._is_followed(closing="]"):
                return

    def _is_followed(self, *, closing: str) -> bool:
        """Takes the comma or the bracket behind a value; returns True for a comma."""
        character = self._next_character()
        if character not in (",", closing):
            raise self._wrong(f"must have a comma or {closing}")
        self._at += 1
        if character == ",":
            self._next_character()
        return character == ","

    def _next_character(self) -> str:
        """Returns the next character that is no space, without taking it; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or not self._fill():
                return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._fill():
                    raise self._wrong(error.msg, at=error.pos) from None
                continue
            except (ValueError, RecursionError) as error:
                raise self._wrong(str(error)) from None
            # A number at the end of the buffer may go on.
            if end < len(self._text) or not self._fill():
                self._at = end
                return value

    def _fill(self) -> bool:
        """Reads on, at least as much as is waiting; returns False at the end of the file."""
        if self._is_end:
            return False
        waiting = self._text[self._at :]
        data = self._file.read(max(self._chunk_bytes, len(waiting)))
        self._is_end = not data
        try:
            if self._text == "" and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                self._bytes = codecs.getincrementaldecoder("utf-16")()
            text = self._bytes.decode(data, final=self._is_end)
        except UnicodeDecodeError as error:
            raise self._wrong(f"must be text in UTF-8: {error.reason}") from None
        self._text, self._at = waiting + text, 0
        return bool(data)

    def _wrong(self, rule: str, *, at: int | None = None) -> UnreadableFile:
        at = self._at if at is None else at
        if at >= len(self._text) and self._is_end:
            return UnreadableFile(f"{self._uri} is cut off: it ends in the middle of its JSON")
        found = self._text[self._at : self._at + 40]
        return UnreadableFile(f"{self._uri} must be JSON, and is not: {rule}, at {found!r}")

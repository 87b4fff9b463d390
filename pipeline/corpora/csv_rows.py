"""Reads the rows of csv and tsv files strictly, with their line numbers.

Python's reader extends a field with an unclosed quote to the end of the file, and loses the rows in
it; here that is an error with the line where the row begins.
"""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from pipeline.corpora.columns import UnsureColumns, columns_of

_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_FIELD = 2**24
_LONGEST_HEADER = 2**20


@dataclass(frozen=True, kw_only=True)
class CsvRows:
    """A csv file whose header has been read."""

    name: str
    columns: Sequence[str]
    separator: str
    lines: Iterable[str]
    """All lines from the header on."""
    lines_before: int

    def rows(self, *, location: int) -> Iterator[tuple[int, list[str]]]:
        """Yields the rows below the header that are not empty, with the lines where they begin.

        Args:
            location: the index of the column of locations.

        Raises:
            ValueError: a row cannot be read for certain.
        """
        csv.field_size_limit(_LONGEST_FIELD)
        # A header `uri, caption` shows that blanks follow the separators.
        has_blanks = any(name.startswith(" ") for name in self.columns[1:])
        reader = csv.reader(
            self.lines, delimiter=self.separator, strict=True, skipinitialspace=has_blanks
        )
        next(reader)
        while True:
            line = reader.line_num + self.lines_before + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._unreadable(line, str(error)) from error
            if any("\n" in value or "\r" in value for value in row):
                self._refuse_swallowed_rows(row, line=line, location=location)
            if any(row):
                yield line, row

    def _refuse_swallowed_rows(self, row: Sequence[str], *, line: int, location: int) -> None:
        """Raises where an unclosed quote took later rows into a field, as their locations show."""
        own = row[location] if len(row) > location else ""
        ending = own.rpartition(".")[2].lower()
        if not ending or ending == own.lower():
            return
        for column, value in enumerate(row):
            for number, text in enumerate(value.splitlines() if "\n" in value else ()):
                values = text.split(self.separator)
                place = location - (column if number == 0 else 0)
                has_location = 0 <= place < len(values) and values[place].lower().endswith(
                    f".{ending}"
                )
                if has_location and value != own:
                    raise self._unreadable(line, f"a quoted field holds rows, as {text[:60]!r}")

    def _unreadable(self, line: int, reason: str) -> ValueError:
        return ValueError(
            f"{self.name}, line {line}: the row that begins here cannot be read for certain "
            f"({reason}); close each field that begins with a quote, and double quotes within it"
        )


def csv_rows(text: TextIO, *, name: str) -> CsvRows:
    """Reads the header, and finds the character that separates the columns.

    Raises:
        UnsureColumns: no separator gives a column of locations.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    header, lines_before = text.readline(_LONGEST_HEADER), 0
    separators: Sequence[str] = _SEPARATORS
    if header.lower().startswith("sep=") and len(header.strip()) == 5:  # as Excel writes
        separators = header[4]
        header, lines_before = text.readline(_LONGEST_HEADER), 1
    headers = {separator: _split(header, separator) for separator in separators}
    chosen: str | None = None
    for separator, names in headers.items():
        try:
            is_sure = columns_of(names).is_sure
        except UnsureColumns:
            continue
        chosen = separator if is_sure or chosen is None else chosen
        if is_sure:
            break
    if chosen is None:
        columns_of(max(headers.values(), key=len))  # raises, and shows these
    assert chosen is not None
    return CsvRows(
        name=name,
        columns=headers[chosen],
        separator=chosen,
        lines=itertools.chain([header], text),
        lines_before=lines_before,
    )


def _split(header: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=separator), [])
    except csv.Error:
        return []

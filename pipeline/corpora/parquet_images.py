"""Reads the images in Parquet files, and finds the column that holds them.

`reading.py` passes the Parquet sources of a plan to this module; `planning/splitting.py` asks for
row groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.decoding import ImageError, is_image
from pipeline.corpora.encoded import (
    EncodedImage,
    ReadSettings,
    encoded_image,
    failed_source,
    too_large,
)
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import EMPTY_ROW, SkipCounts
from pipeline.storage import Storage, is_complete, join

_IMAGE_COLUMNS = (
    "image", "images", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "content"
)  # fmt: skip
PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""The exceptions of pyarrow for a damaged file. An OSError with a number comes from the storage."""
_BATCH_ROWS = 16
_BATCH_KEYS = 2**13
_PAGE_BUFFER_BYTES = 2**20


def read_parquet_images(
    source: Source, *, storage: Storage, settings: ReadSettings, skipped: SkipCounts
) -> Iterator[EncodedImage]:
    """Yields the images in the rows of a slice; a row of a list column has several.

    Args:
        skipped: counts the rows with an empty list.
    """
    row = source.start
    keys: set[str] = set()
    with storage.open(source.uri, etag=source.etag, size=source.size) as file:
        try:
            parquet = _parquet_file(file)
            schema = parquet.schema_arrow
            column = bytes_column(schema, settings=settings)
            if column is None or settings.key_column not in (None, *schema.names):
                yield _without_column(source, schema, settings=settings)
                return
            columns = _projected(schema.field(column))
            for value, key in _row_values(
                parquet, source, column=column, columns=columns, key_column=settings.key_column
            ):
                cells = _cells(value)
                location = _RowLocation(
                    source, row, key, is_repeated=key is not None and key in keys
                )
                if not cells:
                    skipped.add(str(location), reason=EMPTY_ROW)
                for number, cell in enumerate(cells):
                    image_id = location.image_id + (f"/{number}" if _is_list(value) else "")
                    yield _cell_image(
                        cell, location, image_id=image_id, storage=storage, settings=settings
                    )
                row += 1
                if key is not None:
                    keys.add(key)
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            reason = " ".join(str(error).split())[:300]
            message = f"from row {row} on, the Parquet file cannot be read: {reason}"
            yield failed_source(source, "DamagedParquet", message, at=row)


def row_keys(file: BinaryIO, source: Source, *, key_column: str) -> Iterator[Sequence[str | None]]:
    """Yields the keys of a slice's rows, many at a time, as far as the file can be read."""
    try:
        parquet = _parquet_file(file)
        if key_column in parquet.schema_arrow.names:
            for batch in _batches(parquet, source, columns=[key_column], rows=_BATCH_KEYS):
                yield [_key(value) for value in batch.column(key_column).to_pylist()]
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)


def _row_values(
    parquet: pq.ParquetFile,
    source: Source,
    *,
    column: str,
    columns: Sequence[str],
    key_column: str | None,
) -> Iterator[tuple[Any, str | None]]:
    """Yields the value of a column and the key, for each row of the slice.

    Args:
        columns: the parts of the column to read.
    """
    needed = [*columns, *filter(None, [key_column])]
    for batch in _batches(parquet, source, columns=needed, rows=_BATCH_ROWS):
        for index in range(batch.num_rows):
            key = None if key_column is None else batch.column(key_column)[index].as_py()
            yield batch.column(column)[index].as_py(), _key(key)


def _batches(
    parquet: pq.ParquetFile, source: Source, *, columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of the slice, some at a time."""
    counts = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
    if sum(counts) != parquet.metadata.num_rows:
        raise pa.ArrowInvalid(
            f"its footer counts {parquet.metadata.num_rows} rows in all, and {counts} by row group"
        )
    group_start = 0
    for group, num_rows in enumerate(counts):
        start = max(source.start - group_start, 0)
        stop = num_rows if source.stop is None else min(source.stop - group_start, num_rows)
        group_start += num_rows
        if start >= stop:
            continue
        row = 0
        for batch in parquet.iter_batches(
            batch_size=rows, row_groups=[group], columns=list(columns), use_threads=False
        ):
            first = max(start - row, 0)
            if wanted := max(0, min(stop - row, batch.num_rows) - first):
                yield batch.slice(first, wanted)
            row += batch.num_rows
            if row >= stop:
                break
        if row < stop:
            raise pa.ArrowInvalid(f"row group {group} holds {row} rows of {num_rows}")


def _key(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


@dataclass(frozen=True)
class _Cell:
    """An image in a row: its bytes, or the path that Hugging Face data sets store instead."""

    data: bytes | None
    path: str | None = None


@dataclass(frozen=True)
class _RowLocation:
    """A row and its key."""

    source: Source
    row: int
    key: str | None
    is_repeated: bool

    @property
    def image_id(self) -> str:
        is_numbered = self.key is None or self.is_repeated
        return f"{self.source.name}/{self.row}" if is_numbered else str(self.key)

    def __str__(self) -> str:
        return f"{self.source.uri}, row {self.row}"


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _cells(value: Any) -> list[_Cell]:
    """Returns the images of a row's value; one without bytes where there is no value."""
    if isinstance(value, list):
        return [cell for each in value for cell in _cells(each)]
    if isinstance(value, dict):
        return [_Cell(value["bytes"], value.get("path"))]
    return [_Cell(value)]


def _cell_image(
    cell: _Cell, location: _RowLocation, *, image_id: str, storage: Storage, settings: ReadSettings
) -> EncodedImage:
    error, data, source = None, cell.data, location.source
    if location.is_repeated:
        error = ImageError(
            "DuplicateKey", f"{location}: an earlier row has the key {location.key!r} too"
        )
    elif not data and isinstance(cell.path, str) and cell.path:
        data, error = _by_path(cell.path, location, storage=storage, settings=settings)
    elif not data:
        error = ImageError("EmptyFile", f"{location}: there are no bytes in the column of images")
    elif len(data) > settings.max_image_bytes:
        error = ImageError("TooLarge", f"{location}: {too_large(len(data), settings=settings)}")
    return encoded_image(
        source, image_id=image_id, data=None if error else data, error=error, row=location.row
    )


def _by_path(
    path: str, location: _RowLocation, *, storage: Storage, settings: ReadSettings
) -> tuple[bytes | None, ImageError | None]:
    """Reads the file that a row without bytes names: at that path, or near the Parquet file.

    For a path of another machine, the last folder and the name are tried below the Parquet file's
    folder; the name alone could be another row's image. Only the Parquet file's etag is known:
    later changes of the named file go unnoticed.
    """
    folder = location.source.uri.rpartition("/")[0]
    above = folder.rpartition("/")[0]
    locations = [path] if is_complete(path) else [join(folder, path), join(above, path)]
    last = path.rstrip("/").rsplit("/", 2)[-2:]
    for uri in [*locations, join(folder, *last)] if all(last) else locations:
        file = storage.file(uri)
        if file is None:
            continue
        size, data = file.size, None
        if size <= settings.max_image_bytes:  # some servers do not say how large it is
            data = storage.read(uri, etag=file.etag, most=settings.max_image_bytes + 1)
            size = len(data)
        if size > settings.max_image_bytes:
            message = f"{location}: {too_large(size, settings=settings)}"
            return None, ImageError("TooLarge", message)
        return data, None
    return None, ImageError(
        "EmptyFile",
        f"{location}: there are no bytes in the column of images, and its path {path!r} leads to "
        "no file, as it is or from the Parquet file's folder; put the files there with their last "
        "folder, or write the Parquet file with the bytes in it",
    )


def _without_column(source: Source, schema: pa.Schema, *, settings: ReadSettings) -> EncodedImage:
    columns = f"the columns are {', '.join(schema.names)}"
    if bytes_column(schema, settings=settings) is None:
        wanted = f"column {settings.image_column!r}" if settings.image_column else "single column"
        message = f"there is no {wanted} of encoded images; {columns}; name one by image_column"
        return failed_source(source, "NoImageColumn", message, at=source.start)
    message = f"there is no column {settings.key_column!r}; {columns}; name one by key_column"
    return failed_source(source, "NoKeyColumn", message, at=source.start)


def bytes_column(schema: pa.Schema, *, settings: ReadSettings) -> str | None:
    """Returns the column of encoded images, None where none or several columns may be it.

    It holds bytes, or structs with a field `bytes` as Hugging Face datasets do, or lists of them.
    Of several, one with a usual name is taken.
    """
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    if settings.image_column is not None:
        return settings.image_column if settings.image_column in columns else None
    columns = [name for name in columns if name != settings.key_column]
    usual = [name for name in _IMAGE_COLUMNS if name in columns]
    return next(iter(usual or columns), None) if usual or len(columns) == 1 else None


def holds_images(file: BinaryIO, *, settings: ReadSettings) -> bool:
    """True if a Parquet file holds images, or is damaged: reading it then gives the error.

    A column of bytes without a usual name may hold other data, as embeddings; its first values
    decide.
    """
    schema = parquet_schema(file)
    column = None if schema is None else bytes_column(schema, settings=settings)
    if schema is None or column is None:
        return schema is None
    if column in (settings.image_column, *_IMAGE_COLUMNS):
        return True
    try:
        first = next(_parquet_file(file).iter_batches(_BATCH_ROWS, columns=[column]), None)
        values = [] if first is None else first.column(column).to_pylist()
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        return True
    given = [cell.data for value in values for cell in _cells(value) if cell.data]
    return not given or any(map(is_image, given))


def _holds_bytes(kind: pa.DataType) -> bool:
    if _is_list_type(kind) or pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    types = pa.types
    kinds = (
        types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view
    )  # fmt: skip
    return any(is_kind(kind) for is_kind in kinds)


def _is_list_type(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _projected(field: pa.Field) -> list[str]:
    """Returns the parts of a column of images that are read."""
    if not pa.types.is_struct(field.type):
        return [field.name]
    names = [field.type.field(index).name for index in range(field.type.num_fields)]
    return [f"{field.name}.{name}" for name in ("bytes", "path") if name in names]


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a Parquet file, none where it is damaged: reading it gives the error."""

    rows_and_bytes: Sequence[tuple[int, int]] = ()
    """Rows and uncompressed bytes of each row group, in order."""
    has_lists: bool = False
    """True if a row may have any number of images."""


def parquet_groups(file: BinaryIO, *, settings: ReadSettings) -> RowGroups:
    """Reads the row groups of a Parquet file."""
    try:
        parquet = _parquet_file(file)
        schema, metadata = parquet.schema_arrow, parquet.metadata
        column = bytes_column(schema, settings=settings)
        has_lists = column is not None and _is_list_type(schema.field(column).type)
        # Damaged metadata of a group's columns would crash the process; those of the group do not.
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        return RowGroups([(group.num_rows, group.total_byte_size) for group in groups], has_lists)
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        return RowGroups()


def parquet_schema(file: BinaryIO) -> pa.Schema | None:
    """Returns the columns of a Parquet file, None where it is damaged."""
    try:
        return _parquet_file(file).schema_arrow
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        return None


def raise_if_from_storage(error: Exception) -> None:
    """Raises an error of `PARQUET_ERRORS` again if the storage caused it, not the content."""
    if isinstance(error, OSError) and error.errno is not None:  # Arrow's own errors have no number
        raise error


def _parquet_file(file: BinaryIO) -> pq.ParquetFile:
    # Pages are streamed through the buffer: a column chunk may be larger than memory.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES)

"""Reading: a source to the encoded images in it, one at a time.

Takes a `Source` of the plan; `decoding.py` takes the bytes of what comes out. What is wrong with a
source's content (an archive cut short, a row without bytes) is an image with an error in place of
data, so that it gets a row in the table. `StorageFault` and `SourceChanged` pass through untouched:
they say nothing about any image.

Besides those of `decoding.py`, errors have these classes:

| class | what was found |
|---|---|
| NotFound | no object where one was when the corpus was listed, or where a tar's link leads |
| UnsupportedFormat | a format that is not read, by its ending, as a camera's raw file |
| TooLarge | more bytes than `max_image_bytes` |
| TruncatedArchive | a tar that ends too early; the images before are kept |
| DamagedArchive | a tar with a wrong header or compressed stream; the images before are kept |
| NoImageMember | a tar without any image among its members |
| PartialMember | a member of a tar that is stored as a sparse file, or over several volumes |
| DuplicateKey | a second image with the name of an earlier one in the same archive or file |
| DamagedParquet | a Parquet file that cannot be read; the rows before are kept |
| NoImageColumn | a Parquet file without the column of images that is asked for |
| NoKeyColumn | a Parquet file without the column of ids that is asked for |
"""

from collections.abc import Container, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.encoded import (
    EncodedImage,
    ReadSettings,
    encoded_image,
    failed_source,
    too_large,
)
from pipeline.corpora.passed_over import PassedOver
from pipeline.corpora.sources import Source
from pipeline.corpora.tars import read_tar
from pipeline.storage import Storage, StorageFault

__all__ = [
    "PARQUET_ERRORS", "EncodedImage", "ReadSettings", "bytes_column", "parquet_schema",
    "parquet_slices", "raise_if_of_the_system", "read_source",
]  # fmt: skip

_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "content")
_NOT_THERE = "there was no such object when the corpus was listed"
PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; errors of the file's storage are none of them, but for
OSErrors with a number."""
_BATCH_ROWS = 16
_PAGE_BUFFER_BYTES = 2**20


def read_source(
    source: Source,
    *,
    storage: Storage,
    settings: ReadSettings,
    passed_over: PassedOver | None = None,
) -> Iterator[EncodedImage]:
    """The images of a source, or of the slice that it is, in the order in which they lie there.

    The same source gives the same images whenever it is read. One image is in memory at a time, of
    a Parquet file a few.

    Args:
        passed_over: counts members of archives that could be images and are none.

    Raises:
        StorageFault, SourceChanged: as soon as they occur; what came before still holds.
    """
    if not source.etag:  # it was not there when the plan was made; what is there now is no matter
        yield failed_source(source, "NotFound", _NOT_THERE)
        return
    try:
        if source.kind == "file":
            yield _read_file(source, storage=storage, settings=settings)
        elif source.kind == "tar":
            yield from read_tar(
                source,
                storage=storage,
                settings=settings,
                passed_over=PassedOver() if passed_over is None else passed_over,
            )
        else:
            yield from _read_parquet(source, storage=storage, settings=settings)
    except FileNotFoundError:
        yield failed_source(source, "NotFound", _NOT_THERE)
    except OSError as error:
        raise StorageFault(f"read {source.uri}: {error}") from error


def _read_file(source: Source, *, storage: Storage, settings: ReadSettings) -> EncodedImage:
    if source.size > settings.max_image_bytes:
        return failed_source(source, "TooLarge", too_large(source.size, settings=settings))
    # Some servers do not say how large it is.
    data = storage.read(source.uri, etag=source.etag, most=settings.max_image_bytes + 1)
    if len(data) > settings.max_image_bytes:
        return failed_source(source, "TooLarge", too_large(len(data), settings=settings))
    return encoded_image(source, image_id=source.name, data=data)


def _read_parquet(
    source: Source, *, storage: Storage, settings: ReadSettings
) -> Iterator[EncodedImage]:
    row = source.start
    keys: set[str] = set()
    with storage.open(source.uri, etag=source.etag, size=source.size) as file:
        try:
            parquet = _parquet_file(file)
            column = bytes_column(parquet.schema_arrow, settings=settings)
            if column is None or settings.key_column not in (None, *parquet.schema_arrow.names):
                yield _without_column(source, parquet.schema_arrow, settings=settings)
                return
            for data, key in _rows(parquet, source, column=column, key_column=settings.key_column):
                yield _row_image(source, data, row=row, key=key, keys=keys, settings=settings)
                row += 1
                keys.add(key or "")
        except PARQUET_ERRORS as error:
            raise_if_of_the_system(error)
            reason = " ".join(str(error).split())[:300]
            message = f"from row {row} on, the Parquet file cannot be read: {reason}"
            yield failed_source(source, "DamagedParquet", message, at=row)


def _rows(
    parquet: pq.ParquetFile, source: Source, *, column: str, key_column: str | None
) -> Iterator[tuple[bytes | None, str | None]]:
    """The encoded image and the key of each row of the slice."""
    is_struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
    columns = [f"{column}.bytes" if is_struct else column, *filter(None, [key_column])]
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
            batch_size=_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
        ):
            for index in range(max(start - row, 0), min(stop - row, batch.num_rows)):
                value = batch.column(column)[index].as_py()
                key = None if key_column is None else batch.column(key_column)[index].as_py()
                yield (value["bytes"] if value and is_struct else value), _key(key)
            row += batch.num_rows
            if row >= stop:
                break
        if row < stop:
            raise pa.ArrowInvalid(f"row group {group} holds {row} rows of {num_rows}")


def _key(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


def _row_image(
    source: Source,
    data: bytes | None,
    *,
    row: int,
    key: str | None,
    keys: Container[str],
    settings: ReadSettings,
) -> EncodedImage:
    place = f"{source.uri}, row {row}"
    error = None
    if key in keys:
        error = ImageError("DuplicateKey", f"{place}: an earlier row has the key {key!r} too")
    elif not data:
        error = ImageError("EmptyFile", f"{place}: there are no bytes in the column of images")
    elif len(data) > settings.max_image_bytes:
        error = ImageError("TooLarge", f"{place}: {too_large(len(data), settings=settings)}")
    image_id = f"{source.name}/{row}" if key is None or key in keys else key
    return encoded_image(
        source, image_id=image_id, data=data if error is None else None, error=error, row=row
    )


def _without_column(source: Source, schema: pa.Schema, *, settings: ReadSettings) -> EncodedImage:
    there = f"the columns are {', '.join(schema.names)}"
    if bytes_column(schema, settings=settings) is None:
        wanted = f"column {settings.image_column!r}" if settings.image_column else "single column"
        message = f"there is no {wanted} of encoded images; {there}; name one by image_column"
        return failed_source(source, "NoImageColumn", message, at=source.start)
    message = f"there is no column {settings.key_column!r}; {there}; name one by key_column"
    return failed_source(source, "NoKeyColumn", message, at=source.start)


def bytes_column(schema: pa.Schema, *, settings: ReadSettings) -> str | None:
    """The column of encoded images in a Parquet file, None where there is none or no telling which.

    It holds bytes, or structs with a field `bytes` as Hugging Face datasets do. Of several, one
    with a usual name is taken.
    """
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    if settings.image_column is not None:
        return settings.image_column if settings.image_column in columns else None
    columns = [name for name in columns if name != settings.key_column]
    usual = [name for name in _IMAGE_COLUMNS if name in columns]
    return next(iter(usual or columns), None) if usual or len(columns) == 1 else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    types = pa.types
    is_view = getattr(types, "is_binary_view", lambda _: False)
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or is_view(kind)
    )


def parquet_slices(file: BinaryIO) -> list[tuple[int, int]]:
    """Rows and bytes (before Parquet's compression) of each row group, in order.

    None where the file is damaged: reading it gives the error.
    """
    try:
        metadata = _parquet_file(file).metadata
        # Asked of the group, not of its columns: there damaged metadata end the whole process.
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]
    except PARQUET_ERRORS as error:
        raise_if_of_the_system(error)
        return []


def parquet_schema(file: BinaryIO) -> pa.Schema | None:
    """The columns of a Parquet file, None where it is damaged: reading it gives the error."""
    try:
        return _parquet_file(file).schema_arrow
    except PARQUET_ERRORS as error:
        raise_if_of_the_system(error)
        return None


def raise_if_of_the_system(error: Exception) -> None:
    """Raises an error of `PARQUET_ERRORS` again where it is no fault of the file's content."""
    if isinstance(error, OSError) and error.errno is not None:  # Arrow's own have no number
        raise error


def _parquet_file(file: BinaryIO) -> pq.ParquetFile:
    # Pages are streamed through the buffer: a column chunk may be larger than memory.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES)

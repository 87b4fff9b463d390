"""Reads the files that stand beside a table: the queue of `select`, the agreement of `compare`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.review_page.arrow_arrays import numpy_numbers
from pipeline.review_page.index import TableIndex
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import Storage, join


def add_queue(index: TableIndex, uri: str, *, storage: Storage) -> int:
    """Adds the column `rank` and the reasons of a queue; returns how many images are not shown.

    Raises:
        WrongUsage: the file is no queue.
    """
    rows = _read(uri, columns=["image_id", "rank", "reasons"], option="queue", storage=storage)
    index.add_column("rank", rows["image_id"], _floats(rows["rank"]))
    places = index.places(rows["image_id"]).tolist()
    for place, reasons in zip(places, rows["reasons"].to_pylist(), strict=True):
        if place >= 0:
            index.reasons[place] = list(reasons or ())
    return sum(place < 0 for place in places)


def add_agreement(index: TableIndex, uri: str, *, storage: Storage) -> None:
    """Adds the column `disagreement` of a comparison of this table with another one.

    Takes the output of `compare`, or the rows `agreement` in it.

    Raises:
        WrongUsage: the file is no `agreement`.
    """
    columns = ["image_id", "disagreement"]
    inside = join(uri, "agreement")  # where `compare` puts it in its own output
    place = inside if next(iter(storage.files(inside)), None) else uri
    rows = _read(place, columns=columns, option="agreement", storage=storage)
    rows = rows.filter(pa.compute.is_valid(rows["disagreement"]))
    index.add_column("disagreement", rows["image_id"], _floats(rows["disagreement"]))


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    return numpy_numbers(column.cast(pa.float64()), missing=np.nan).astype(np.float32)


def _read(uri: str, *, columns: Sequence[str], option: str, storage: Storage) -> pa.Table:
    """Reads columns of a Parquet file, or of all that lie below a prefix."""
    place = storage.absolute(uri)
    single = storage.file(place)
    files = [single] if single is not None else [*storage.files(place)]
    files = [file for file in files if file is single or file.uri.endswith(".parquet")]
    if not files:
        raise WrongUsage(f"--{option} must name a Parquet file, and there is none at {place}")
    tables = []
    for file in files:
        try:
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                names = pq.read_schema(data).names
                missing = [name for name in columns if name not in names]
                if missing:
                    raise WrongUsage(
                        f"--{option} must name a file with the columns {', '.join(columns)}; "
                        f"{file.uri} has no {missing[0]}, but {', '.join(names)}"
                    )
                data.seek(0)
                tables.append(read_parquet(data, columns=columns))
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            reason = " ".join(str(error).split())[:200]
            raise WrongUsage(f"--{option}: {file.uri} is no Parquet file: {reason}") from error
    return pa.concat_tables(tables)

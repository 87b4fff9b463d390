"""Parquet comes whole or in part, from bytes and from files."""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from as_files import encode_table

from pipeline.corpora.parquet import read_parquet

ROWS = pa.table({"name": ["a", "b", "a"], "number": [1, 2, 3]})


@pytest.fixture
def parquet_with_images() -> bytes:
    return encode_table(ROWS, row_group_size=1)


def test_bytes_and_files_give_the_same_rows(parquet_with_images: bytes) -> None:
    assert read_parquet(parquet_with_images).equals(ROWS)
    assert read_parquet(io.BytesIO(parquet_with_images)).equals(ROWS)


def test_rows_and_columns_may_be_chosen(parquet_with_images: bytes) -> None:
    found = read_parquet(parquet_with_images, columns=["number"], rows=pc.field("name") == "a")
    assert found.to_pydict() == {"number": [1, 3]}

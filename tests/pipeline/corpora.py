"""Corpora that tests draw themselves: images, tar shards and Parquet files."""

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table


def put(root: Path, files: Mapping[str, bytes]) -> str:
    """Writes files by their path below the root; gives the root."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def picture(seed: int = 0, *, height: int = 36, width: int = 48, format: str = "PNG") -> bytes:
    """An image of random coloured blocks, encoded."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    return encode_image(pixels, format)


def tar(members: Iterable[tuple[str, bytes]], *, compressed: bool = False) -> bytes:
    """An archive with so many members, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    return gzip.compress(data, mtime=0) if compressed else data


def parquet(columns: Mapping[str, list], *, rows_per_group: int = 4) -> bytes:
    """A Parquet file with these columns; those without a value are of bytes."""
    arrays = {
        name: pa.array(values, None if values else pa.binary()) for name, values in columns.items()
    }
    return encode_table(pa.table(arrays), row_group_size=rows_per_group)

"""Reads and writes files of exported models: a zip that says by itself whether it is whole.

Its parts are a plain ONNX graph and the weights of the mask projection. The zip's comment is the
SHA-256 of all bytes before it.
"""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_GRAPH = "decode_queries.onnx"
_MASK_PROJECTION = "mask_projection.safetensors"

_DIGEST_BYTES = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """An exported model."""

    graph: bytes
    """The ONNX graph from pixels to classes, mask embeddings and pixel features."""
    mask_projection: bytes
    """Weight and bias of the projection of pixel features, as safetensors."""

    @property
    def by_name(self) -> dict[str, bytes]:
        """Returns the parts by their names in a file."""
        return {_GRAPH: self.graph, _MASK_PROJECTION: self.mask_projection}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "GraphFiles":
        """Takes the parts from among other files."""
        return cls(graph=files[_GRAPH], mask_projection=files[_MASK_PROJECTION])


def write_graph_file(path: Path, files: GraphFiles) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.by_name.items():
            archive.writestr(name, data)
        archive.comment = b"0" * _DIGEST_BYTES
    with path.open("r+b") as file:
        digest = _digest(file)
        file.seek(-_DIGEST_BYTES, os.SEEK_END)
        file.write(digest)


def read_graph_file(path: Path) -> GraphFiles | None:
    """Returns what a file holds; None where there is none, or a damaged one.

    It is opened once: another run may put its own in its place meanwhile.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(_DIGEST_BYTES, size), os.SEEK_END)
        if file.read() != _digest(file):
            return None
        with zipfile.ZipFile(file) as archive:
            return GraphFiles.of({name: archive.read(name) for name in archive.namelist()})


def _digest(file: BinaryIO) -> bytes:
    """Returns the SHA-256 of a file without its last 64 bytes, as 64 hexadecimal digits."""
    digest, left = hashlib.sha256(), file.seek(0, os.SEEK_END) - _DIGEST_BYTES
    file.seek(0)
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()

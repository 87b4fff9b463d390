"""Defines sources, the locations of images as a plan stores them.

`corpus.py` lists them, `planner.py` cuts and groups them into units, `reading.py` opens them.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "tar", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An object of the corpus that holds images, or a slice of one.

    `start` and `stop` are bytes of the (uncompressed) stream in a tar, rows in Parquet, and 0 and 1
    for a file that is one image. A tar's slice covers the samples whose first header begins in it;
    `stop` None means up to the end.
    """

    uri: str
    """Absolute path or URL, without credentials."""
    name: str
    """The path relative to the corpus root: the image_id of a file, the prefix of those inside."""
    kind: Kind
    etag: str
    """Changes with the content: the object's etag, or a local file's size and modification time;
    empty for an object that was absent when the corpus was listed."""
    size: int
    """Bytes of the whole object, not of the slice."""
    start: int = 0
    stop: int | None = None
    num_images: int | None = None
    """Number of images in the slice, None where only reading it can tell."""
    again: int = 0
    """Number of units of earlier plans that held this version: above 0 where an image in error is
    tried again or an older version came back. Only the unit's name depends on it: the new unit
    stands beside the old one."""

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that reading the slice takes; of Parquet, those of the whole object."""
        if self.kind != "tar":
            return self.size
        return max(0, (self.size if self.stop is None else self.stop) - self.start)

    def sliced(self, *, start: int, stop: int | None, num_images: int | None = None) -> "Source":
        """Returns the part of the source from `start` to `stop`."""
        return dataclasses.replace(self, start=start, stop=stop, num_images=num_images)

"""Sources: where images lie, as the plan writes them down.

`corpus.py` lists them, `planner.py` cuts and groups them into units, `reading.py` opens them.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "tar", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One object of the corpus, or a slice of one, that holds images.

    `start` and `stop` are bytes of the (uncompressed) stream in a tar, rows in Parquet, and 0 and 1
    for a file that is one image. A tar's slice covers the samples whose first header begins in it;
    `stop` None means to the end, whatever the end is.
    """

    uri: str
    """Absolute path or URL, without credentials."""
    name: str
    """The path relative to the corpus root: the image_id of a file, the prefix of those inside."""
    kind: Kind
    etag: str
    """What changes with the content: the object's etag; of a local file, size and modification
    time; empty where the object was not there when the corpus was listed."""
    size: int
    """Bytes of the whole object, not of the slice."""
    start: int = 0
    stop: int | None = None
    num_images: int | None = None
    """How many images the slice holds, None where only reading it can tell."""
    again: int = 0
    """How many units of earlier plans have held this version of it: 0, but where an image in error
    is tried again or an older version came back. It is part of the unit's name and of nothing else:
    the new unit stands beside the old one."""

    @property
    def num_bytes(self) -> int:
        """How many bytes reading the slice takes; all of the object where only its reader knows."""
        if self.kind != "tar":
            return self.size
        return max(0, (self.size if self.stop is None else self.stop) - self.start)

    def sliced(self, *, start: int, stop: int | None, num_images: int | None = None) -> "Source":
        """Returns the part of the source from `start` to `stop`."""
        return dataclasses.replace(self, start=start, stop=stop, num_images=num_images)

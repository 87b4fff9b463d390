"""Loads a worker's share of the images to validate by, each time in the same order.

`validation.py` takes the blocks. Beside a GPU they come from loader processes, which stay for the
next validation.
"""

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.training.loader_processes import LoaderProcesses

# To start a process takes as long as to decode about so many images.
_LEAST_IMAGES = 64
_CHUNK = 16
_CHUNKS_AHEAD = 2


class ValidationBlocks:
    """Blocks of resized images, made by this process or by others; can be iterated many times."""

    def __init__(self, loader: ImageLoader, share: Sequence[int], *, num_processes: int) -> None:
        """Starts at most `num_processes`, at the first block, where there are enough images."""
        self._loader, self._share = loader, list(share)
        self._processes: LoaderProcesses[int, pa.Table] | None = None
        num_processes = min(num_processes, len(self._share) // _LEAST_IMAGES)
        if num_processes:
            self._processes = LoaderProcesses(
                functools.partial(_blocks, loader),
                [self._share[i : i + _CHUNK] for i in range(0, len(self._share), _CHUNK)],
                num_processes=num_processes,
                chunks_ahead=_CHUNKS_AHEAD,
                are_kept=True,
            )

    def __iter__(self) -> Iterator[pa.Table]:
        if self._processes is not None:
            yield from self._processes
        else:
            yield from self._loader(_indices(self._share))


def _blocks(loader: ImageLoader, share: Sequence[int]) -> list[pa.Table]:
    return list(loader(_indices(share)))


def _indices(share: Sequence[int]) -> pa.Table:
    return pa.table({"index": list(share)}, schema=INDICES)

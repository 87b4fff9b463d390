"""What compiled loops have in common: threads, interpolation grids as arrays, rows resampled.

They run on CPUs only, beside torch's operations for other devices, and give up the interpreter's
lock, so that threads of Python take their parts at once. torch's own threads meet after every
operation, which costs more than such small ones take.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar, no_type_check

import numpy as np
import torch

from maskformer.bilinear import InterpolationGrid
from maskformer.cpu.compiled import compiled

Part = TypeVar("Part")


def in_parts(count: int, call: Callable[[int, int], Part]) -> list[Part]:
    """Calls with the parts [first, end) of `count`, one for each of torch's threads; in order."""
    num_threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * thread // num_threads for thread in range(num_threads + 1)]
    run: Callable[..., Any] = map if num_threads == 1 else _threads(num_threads).map
    return list(run(call, *zip(*pairwise(edges), strict=True)))


@lru_cache(maxsize=4)
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="loops")


def arrays(grid: InterpolationGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a grid as compiled loops take it."""
    return grid.before.numpy(), grid.after.numpy(), grid.weight_after.numpy()


# Without `fastmath` no multiplication is fused with an addition: results are torch's to the bit.
@compiled()
@no_type_check
def widen(samples, left, right, weight_right, wide):
    """Resamples a row at the given columns, into `wide`."""
    for x in range(len(left)):
        before = samples[left[x]]
        wide[x] = (samples[right[x]] - before) * weight_right[x] + before

"""Compiled loops: what those of `contest.py`, `score_sum.py` and `mask_loops.py` have in common.

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

from maskformer.bilinear import Places
from maskformer.cpu.compiled import compiled

Part = TypeVar("Part")


def in_parts(count: int, call: Callable[[int, int], Part]) -> list[Part]:
    """What `call` gives for the parts [first, end) of `count`, one for each thread of torch's."""
    num_threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * thread // num_threads for thread in range(num_threads + 1)]
    run: Callable[..., Any] = map if num_threads == 1 else _threads(num_threads).map
    return list(run(call, *zip(*pairwise(edges), strict=True)))


@lru_cache(maxsize=4)
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="loops")


def arrays(at: Places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places as compiled loops take them."""
    return at.before.numpy(), at.after.numpy(), at.weight_after.numpy()


# Without `fastmath` no multiplication is fused with an addition: results are torch's to the bit.
@compiled()
@no_type_check
def widen(samples, left, right, weight_right, wide):
    """A row of samples, resampled at the given columns, into `wide`."""
    for x in range(len(left)):
        before = samples[left[x]]
        wide[x] = (samples[right[x]] - before) * weight_right[x] + before

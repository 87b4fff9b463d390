"""Counting how often the host waits for the device."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch


def waits(call: Callable[[], Any], *, warm_up: int = 2) -> list[str]:
    """Lists where a call waits, as torch sees it, after a first call."""
    for _ in range(warm_up):
        call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [
        f"{warning.filename}:{warning.lineno}"
        for warning in caught
        if "synchronizing" in str(warning.message)
    ]


@contextlib.contextmanager
def no_hidden_waits() -> Iterator[None]:
    """Has every operation that waits for the device raise, on all threads."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")

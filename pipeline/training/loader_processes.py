"""Processes that load: they make items by chunks, ahead of the process that takes them."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

Index = TypeVar("Index")
Item = TypeVar("Item")


class LoaderProcesses(Generic[Index, Item]):
    """Makes the items of chunks in processes, with torch's DataLoader, and yields them in order."""

    def __init__(
        self,
        make: Callable[[Sequence[Index]], list[Item]],
        chunks: Iterable[list[Index]],
        *,
        num_processes: int,
        chunks_ahead: int,
        are_kept: bool = False,
    ) -> None:
        """Starts the processes at the first item that is asked for.

        Args:
            make: goes to each process once, by pickle.
            chunks_ahead: of each process, made or in the making.
            are_kept: the processes stay for the next time that the items are asked for.
        """
        self._num_processes = num_processes
        self._loader = DataLoader(
            _Chunks(make),
            batch_sampler=chunks,
            num_workers=num_processes,
            prefetch_factor=chunks_ahead,
            collate_fn=_unchanged,
            # Not forked: this process may hold threads and a GPU.
            multiprocessing_context="spawn",
            worker_init_fn=_start_process,
            persistent_workers=are_kept,
            # The DataLoader draws a seed, which would otherwise come from the model's generator.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Item]:
        """Yields the items.

        Raises:
            Exception: what `make` raised, at its chunk.
            RuntimeError: a process died.
        """
        try:
            for made in self._loader:
                if isinstance(made, _Failure):
                    raise made.error from LoaderTraceback(made.traceback)
                yield from made
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise RuntimeError(
                f"one of {self._num_processes} processes that load images died, most often for "
                "lack of memory; use fewer of them, or smaller crops "
                f"({' '.join(str(error).split())})"
            ) from error


class LoaderTraceback(Exception):
    """The traceback of an error in a loader process."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An error in a loader process; the DataLoader itself would change its message or class."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        text = "".join(traceback.format_exception(error))
        try:
            arrived = pickle.loads(pickle.dumps(error))
        except Exception:
            arrived = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error=arrived, traceback=text)


class _Chunks(Dataset[Any]):
    """Makes the items of a chunk in a loader process."""

    def __init__(self, make: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._make = make

    def __getitems__(self, indices: Sequence[Any]) -> list[Any] | _Failure:
        try:
            return self._make(indices)
        except Exception as error:
            return _Failure.of(error)


def _unchanged(made: Any) -> Any:
    return made


def _start_process(_: int) -> None:
    # Tensors go through a pipe by value: torch would move them through shared memory, of which a
    # container may have 64 MB.
    ForkingPickler.register(torch.Tensor, _reduce_tensor)
    # Ctrl-C is for the training process, which tells this one to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    # In the order of memory, in which numpy copies a permuted image as one block.
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return _tensor, (tensor.permute(order).numpy(), np.argsort(order).tolist())


def _tensor(array: np.ndarray, order: list[int]) -> torch.Tensor:
    return torch.from_numpy(array).permute(order)


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, which tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)

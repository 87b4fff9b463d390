"""The one copy of a batch's results from the device to the host."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maskformer.postprocessing.batch_runs import BatchRuns
from maskformer.postprocessing.batch_settling import SettledBatch


@dataclass(frozen=True, kw_only=True)
class ArrivedBatch:
    """The runs and segments of a batch, in the memory of the host."""

    starts: np.ndarray
    run_ids: np.ndarray
    num_runs: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    won: np.ndarray
    second_labels: np.ndarray | None = None
    second_scores: np.ndarray | None = None
    order: np.ndarray | None = None


class BatchTransfer:
    """All that the host needs, on its way in one copy."""

    def __init__(self, runs: BatchRuns, settled: SettledBatch) -> None:
        # Numbers of more bytes come first, so that every array is aligned.
        second = settled.second
        parts: dict[str, Tensor | None] = {
            "second_labels": None if second is None else second.labels,
            "order": None if second is None else second.order,
            "starts": runs.starts,
            "num_runs": runs.num_runs,
            "won": settled.won.to(torch.int32),
            "scores": settled.scores,
            "second_scores": None if second is None else second.scores,
            "run_ids": runs.run_ids,
            "ids": settled.ids,
            "labels": settled.labels,
        }
        self._parts = {name: part for name, part in parts.items() if part is not None}
        packed = torch.cat(
            [part.contiguous().view(torch.uint8).view(-1) for part in self._parts.values()]
        )
        is_cuda = packed.device.type == "cuda"
        self._host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=is_cuda)
        self._host.copy_(packed, non_blocking=True)
        self.num_bytes, self.num_runs_at_most = packed.numel(), len(runs.starts)
        self._event: torch.cuda.Event | None = None
        if is_cuda:
            # A thread that waits for it sleeps; by default it would keep a core busy.
            self._event = torch.cuda.Event(blocking=True)
            self._event.record(torch.cuda.current_stream(packed.device))

    def arrived(self) -> ArrivedBatch:
        """Waits for the copy; gives up the interpreter's lock meanwhile."""
        if self._event is not None:
            self._event.synchronize()
        numbers, start, arrays = self._host.numpy(), 0, {}
        for name, part in self._parts.items():
            end = start + part.numel() * part.element_size()
            dtype = _NUMPY[part.dtype]
            arrays[name] = numbers[start:end].view(dtype).reshape(tuple(part.shape))
            start = end
        return ArrivedBatch(**arrays)


_NUMPY = {
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.float32: np.float32,
}

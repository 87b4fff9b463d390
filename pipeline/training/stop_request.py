"""Passes the first worker's request to stop to all workers, so that all stop after one step."""

import torch
import torch.distributed as dist

from pipeline.training.host_copy import HostCopy


class StopRequest:
    """Agrees on a stop with all processes of torch.distributed; each makes one.

    The request arrives a step later, so that no step waits for it.
    """

    def __init__(self, *, device: torch.device, rank: int, world_size: int) -> None:
        self._device, self._rank, self._world_size = device, rank, world_size
        self._arriving = HostCopy(1, device=device)
        self._word = torch.zeros(1, device=device)
        self._sent: dist.Work | None = None

    def agreed(self, is_asked: bool) -> bool:
        """Returns True if all stop now; all processes must call it after each step.

        Args:
            is_asked: True to ask for a stop; has an effect in the first process only.
        """
        if self._world_size == 1:
            return is_asked
        if self._arriving.is_immediate:
            self._receive()
        is_agreed = (self._arriving.take() or [0.0])[0] > 0
        self._word = torch.full_like(self._word, float(is_asked and self._rank == 0))
        self._sent = dist.broadcast(self._word, src=0, async_op=True)
        if not self._arriving.is_immediate:
            self._receive()
        return is_agreed

    def _receive(self) -> None:
        """Waits for the word where gloo brings it; on a GPU the stream does, and not the host."""
        if self._sent is not None:
            self._sent.wait()
            self._arriving.send(self._word)
            self._sent = None

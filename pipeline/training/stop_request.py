"""Passes the first worker's request to stop to all workers, so that all stop after one step."""

import torch
import torch.distributed as dist


class StopRequest:
    """Agrees on a stop with all processes of torch.distributed; each makes one.

    The request arrives a step later, so that no step waits for it.
    """

    def __init__(self, *, device: torch.device, rank: int, world_size: int) -> None:
        self._device, self._rank, self._world_size = device, rank, world_size
        self._word: torch.Tensor | None = None
        self._sent: dist.Work | None = None

    def agreed(self, is_asked: bool) -> bool:
        """Returns True if all stop now; all processes must call it after each step.

        Args:
            is_asked: True to ask for a stop; has an effect in the first process only.
        """
        if self._world_size == 1:
            return is_asked
        is_agreed = False
        if self._sent is not None and self._word is not None:
            self._sent.wait()
            is_agreed = bool(self._word.item())
        self._word = torch.tensor(float(is_asked and self._rank == 0), device=self._device)
        self._sent = dist.broadcast(self._word, src=0, async_op=True)
        return is_agreed

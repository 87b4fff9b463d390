"""The stop request: the first worker hears that a run is to stop, and all stop after one step."""

import torch
import torch.distributed as dist


class StopRequest:
    """Agrees on it, of all processes of torch.distributed; each makes one.

    The others hear of it a step later, so that no step waits for the word.
    """

    def __init__(self, *, device: torch.device, rank: int, world_size: int) -> None:
        self._device, self._rank, self._world_size = device, rank, world_size
        self._word: torch.Tensor | None = None
        self._sent: dist.Work | None = None

    def agreed(self, is_asked: bool) -> bool:
        """Whether all stop now; all must call it after each step.

        Args:
            is_asked: what the first process knows; of the others it has no effect.
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

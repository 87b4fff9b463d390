"""Brings a few numbers from the device to the host, which goes on meanwhile."""

import torch
from jaxtyping import Float
from torch import Tensor


class HostCopy:
    """A copy of some numbers on its way to the host, one at a time.

    On a CPU the numbers are there at once. On a GPU they are there when the host has waited for
    something that the device does later, such as the matching of the next step.
    """

    def __init__(self, count: int, *, device: torch.device) -> None:
        is_apart = device.type == "cuda"
        self.is_immediate = not is_apart
        self._buffer = torch.zeros(count, pin_memory=is_apart)
        self._numbers = self._buffer.numpy()  # to read it is no operation of torch
        self._copied = torch.cuda.Event() if is_apart else None
        self._is_sent = False

    def send(self, numbers: Float[Tensor, " count"]) -> None:
        """Starts the copy; what was sent before must have been taken."""
        assert not self._is_sent
        self._buffer.copy_(numbers, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._is_sent = True

    def take(self) -> list[float] | None:
        """Returns what was sent last, once, and waits for it; None where nothing is on its way."""
        if not self._is_sent:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        self._is_sent = False
        return [float(number) for number in self._numbers]

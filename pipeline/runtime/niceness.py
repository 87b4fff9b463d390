"""Lowers the priority of processes that must leave the cores to others."""

import os
from functools import cache

_STEPS = 5


@cache
def lower_priority() -> None:
    """Lowers the priority of this process's threads to come, once, however often it is called.

    Beside a GPU, readers take all cores that they get: an actor that waits for one leaves its GPU
    idle.
    """
    os.nice(_STEPS)

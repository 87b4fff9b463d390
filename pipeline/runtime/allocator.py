"""The allocator: how a process that computes on a CPU should use memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)


def keep_memory() -> None:
    """Lets the C library keep the memory of large tensors for the next ones.

    It would give each back to the system and take it anew page by page, all zeroed: on a CPU that
    is a twentieth of the time of a forward, and of a training step.
    """
    _set((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**30))


def return_memory() -> None:
    """Has the C library give back the memory of large arrays at once.

    After some it would keep what each thread has freed for that thread alone: twice what sixteen
    threads need that make maps of 12 megapixels.
    """
    _set((_MMAP_THRESHOLD, 2**22))


def _set(*settings: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        for parameter, value in settings:
            mallopt(parameter, value)

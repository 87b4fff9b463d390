"""Sets how the C library's allocator keeps or returns memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)


def keep_memory(*, has_one_arena: bool = True) -> None:
    """Lets the C library keep the memory of large tensors for the next ones.

    By default it returns each to the system and takes new, zeroed pages: on a CPU that costs a
    twentieth of the time of a forward pass and of a training step.

    Args:
        has_one_arena: whether all threads share one lock and what any of them freed, which suits a
            process in which one thread at a time works.
    """
    arenas = ((_ARENA_MAX, 1),) if has_one_arena else ()
    _set(*arenas, (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**30))


def return_memory() -> None:
    """Lets the C library return the memory of large arrays at once.

    By default it keeps freed memory for the thread that freed it: sixteen threads that make maps of
    12 megapixels would hold twice what they need.
    """
    _set((_MMAP_THRESHOLD, 2**22))


def _set(*settings: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        for parameter, value in settings:
            mallopt(parameter, value)

"""Limits the time and the memory that a process takes for one image."""

import contextlib
import faulthandler
import resource
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends the process, with a stack trace on stderr, if the body takes longer than `seconds`.

    A signal or a thread would not stop a decoder whose native code holds the interpreter's lock.
    A process has one such limit at a time: a second one replaces the first.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Lets the process allocate `num_bytes` more; beyond that, allocations raise MemoryError.

    Works on Linux only. Shared memory, such as Ray's object store, does not count.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with _may_fail():
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + num_bytes, before[1]))
    try:
        yield
    finally:
        with _may_fail():
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _may_fail() -> contextlib.AbstractContextManager[None]:
    """Ignores errors of systems without /proc, or with a lower limit of their own."""
    return contextlib.suppress(OSError, ValueError)


def _data_bytes() -> int:
    """Returns the process's private writable memory, as the kernel counts it."""
    with open("/proc/self/status", "rb") as status:
        line = next(line for line in status if line.startswith(b"VmData:"))
    return int(line.split()[1]) * 1024

"""Limits: what work on one image may take of its process, in time and in memory."""

import contextlib
import faulthandler
import resource
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends the process, with a stack trace on stderr, where the body takes longer.

    Nothing milder reaches a decoder that hangs: its native code may hold the interpreter's lock.
    There is one such limit in a process at a time; a later one takes the place of an earlier.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Lets the process take so much more memory than it has; what asks for more has MemoryError.

    Only Linux bounds it. What processes share, as Ray's objects, does not count.
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
    """Without /proc, or below a lower limit of the system's, there is nothing to do."""
    return contextlib.suppress(OSError, ValueError)


def _data_bytes() -> int:
    """Private memory that can be written, as the kernel counts it."""
    with open("/proc/self/status", "rb") as status:
        line = next(line for line in status if line.startswith(b"VmData:"))
    return int(line.split()[1]) * 1024

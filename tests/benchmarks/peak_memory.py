"""The most memory that this process has had resident, for benchmarks that print it."""

from pathlib import Path


def peak_mb() -> int:
    """Returns the peak in MB since the process's program began.

    `getrusage` counts what the parent had when it started this process, however small this one is.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
